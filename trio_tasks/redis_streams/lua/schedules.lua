#!lua flags=no-writes
-- All schedules of the queue.
--
-- KEYS     the fixed keys of the queue; used: cron
-- ARGV     prefix
-- RETURNS  per schedule {name, definition, template, priority, deadline, lifetime, next, last}
--@include head
--@include schedule
local reply = {}
for _, name in ipairs(call('ZRANGE', CRON, 0, -1)) do
  local row = schedule_named(name)
  if row then reply[#reply + 1] = row end
end
return reply
