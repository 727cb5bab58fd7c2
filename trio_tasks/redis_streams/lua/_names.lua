-- The names of a queue's keys, and what every script needs.
local META, LEASES, INCARNATIONS, DUE, WAKE, CANCELS, CRON, OUT, EVENTS, DLQ = unpack(KEYS)
local PREFIX = ARGV[1]
local JOB, STREAM = PREFIX .. 'j:', PREFIX .. 's:'
local call = redis.call
-- tostring(1790000000000) is '1.79e+12' in Lua; '%.0f' costs 3 times as much as this.
local function ms(number) return string.format('%d', number) end
