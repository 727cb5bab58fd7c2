#!lua flags=no-writes
-- The queue in numbers. Streams and groups that are not there count as empty.
--
-- KEYS     the fixed keys of the queue; used: m z dlq out
-- ARGV     prefix
-- RETURNS  {queued, running, delayed, due, dead, outgoing, paused, emitted, completed, skipped,
--          cancelled, removed}; the first seven as they are now, the others since the queue exists
--@include head
local meta = call('HMGET', META, 'lv', 'pa', 'em', 'c', 's', 'x', 'rm')
local queued, running = 0, 0
for level in string.gmatch(meta[1] or '', '%d') do
  local length = call('XLEN', STREAM .. level)
  local pending = redis.pcall('XPENDING', STREAM .. level, 'g')
  local taken = 0
  for _, consumer in ipairs(pending[4] or {}) do
    if consumer[1] ~= RELEASED then taken = taken + consumer[2] end
  end
  queued, running = queued + length - taken, running + taken
end
local reply = { queued, running, call('ZCARD', DUE), call('ZCOUNT', DUE, '-inf', NOW),
  call('ZCARD', DLQ), call('XLEN', OUT), meta[2] and 1 or 0 }
for i = 3, 7 do reply[#reply + 1] = tonumber(meta[i]) or 0 end
return reply
