#!lua flags=allow-oom
-- Removes a schedule; jobs that it made stay.
--
-- KEYS     the fixed keys of the queue; used: cron
-- ARGV     prefix, name
-- RETURNS  1 it was there, 0 it was not
-- AGAIN    0
--@include head
call('ZREM', CRON, ARGV[2])
return call('DEL', SCHEDULE .. ARGV[2])
