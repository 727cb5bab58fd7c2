#!lua flags=allow-oom
-- Turns an occurrence into a job, or passes it over, and advances the schedule; in one step.
--
-- KEYS     the fixed keys of the queue
-- ARGV     prefix, tombstone (ms), name, definition, occurrence (ms), the one after it (ms, -1:
--          none, the schedule ends), then id, blob, options of the job, or nothing: passed over
-- RETURNS  'created', 'passed', 'taken' or 'early'
-- KEEPS    an occurrence becomes at most one job, over any number of schedulers
-- AGAIN    'taken'
--@include head
--@include enqueue
--@include schedule
local name, definition, occurrence, following = ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[6]
local stored = schedule_named(name)
if not stored or stored[2] ~= definition or tonumber(stored[7]) ~= occurrence
    or tonumber(stored[8]) >= occurrence then
  return 'taken'
end
if occurrence > now then return 'early' end
enqueue_all(7)
if following == '-1' then
  call('ZREM', CRON, name)
  call('DEL', SCHEDULE .. name)
else
  call('HSET', SCHEDULE .. name, 'last', ms(occurrence))
  if stored[6] ~= '-1' then call('PEXPIRE', SCHEDULE .. name, stored[6]) end
  call('ZADD', CRON, following, name)
end
conclude()
return ARGV[7] and 'created' or 'passed'
