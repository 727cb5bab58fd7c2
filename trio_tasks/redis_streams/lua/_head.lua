-- The head of every script of a queue: names, and server time, read once.
local META, LEASES, INCARNATIONS, DUE, WAKE, CANCELS, CRON, OUT, EVENTS, DLQ = unpack(KEYS)
local PREFIX = ARGV[1]
local JOB, STREAM, LOG = PREFIX .. 'j:', PREFIX .. 's:', PREFIX .. 'l:'
local DEBOUNCE, SCHEDULE = PREFIX .. 'd:', PREFIX .. 'cr:'
local RELEASED = '~released'
local call = redis.call
-- tostring(1790000000000) is '1.79e+12' in Lua.
local function ms(number) return string.format('%.0f', number) end
local FAR = 2 ^ 40 -- ms; 'inf' would become a negative integer on its way out
local clock = call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local NOW = ms(now)
