-- The head of nearly every script of a queue: names, and server time, read once.
--@include names
local LOG, DEBOUNCE, SCHEDULE = PREFIX .. 'l:', PREFIX .. 'd:', PREFIX .. 'cr:'
local RELEASED = '~released'
-- The reply of a `pcall` for which a stream or group that is missing is no error. A key of another
-- type is one: it is not known what was there.
local function unless_misplaced(reply)
  if reply and reply.err and string.find(reply.err, '^WRONGTYPE') then error(reply) end
  return reply
end
local FAR = 2 ^ 40 -- ms; 'inf' would become a negative integer on its way out
local clock = call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local NOW = ms(now)
