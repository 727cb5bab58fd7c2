-- The head of every script of a queue: names, and server time, read once.
local META, LEASES, INCARNATIONS, DUE, WAKE, CANCELS, CRON, OUT, EVENTS, DLQ = unpack(KEYS)
local PREFIX = ARGV[1]
local JOB, STREAM, LOG = PREFIX .. 'j:', PREFIX .. 's:', PREFIX .. 'l:'
local DEBOUNCE, SCHEDULE = PREFIX .. 'd:', PREFIX .. 'cr:'
local RELEASED = '~released'
local call = redis.call
-- The reply of a `pcall` for which a stream or group that is missing is no error. A key of another
-- type is one: it is not known what was there.
local function unless_misplaced(reply)
  if reply and reply.err and string.find(reply.err, '^WRONGTYPE') then error(reply) end
  return reply
end
-- What lies under the name of a job's record is no record: whoever needs it is told the name.
local function misplaced(key)
  error({ err = 'MISPLACED key ' .. key .. ' is not a hash: rename or delete it' })
end
-- tostring(1790000000000) is '1.79e+12' in Lua; '%.0f' costs 3 times as much as this.
local function ms(number) return string.format('%d', number) end
local FAR = 2 ^ 40 -- ms; 'inf' would become a negative integer on its way out
local clock = call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local NOW = ms(now)
-- Whether a job has ended and its retention is over: readers treat it as gone. `finished`: its `f`.
local function past(finished)
  local at, retention = string.match(finished or '', '^(%d+) %S+ (%d+)')
  return at and at + retention <= now
end
