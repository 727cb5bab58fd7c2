#!lua flags=allow-oom
-- The schedules whose next occurrence has come. Forgets those whose lifetime is over.
--
-- KEYS     the fixed keys of the queue; used: cron
-- ARGV     prefix
-- RETURNS  {now (ms), ms until the next one after them (-1: none), schedule …}
-- AGAIN    answers the same
--@include head
--@include schedule
local reply = { now, -1 }
for _, name in ipairs(call('ZRANGEBYSCORE', CRON, '-inf', NOW)) do
  local row = schedule_named(name)
  if row then
    reply[#reply + 1] = row
  else
    call('ZREM', CRON, name)
  end
end
local later = call('ZRANGEBYSCORE', CRON, '(' .. NOW, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
if later[2] then reply[2] = math.min(later[2] - now, FAR) end
return reply
