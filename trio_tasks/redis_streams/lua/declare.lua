#!lua
-- Stores a schedule, or renews the lifetime of one that is unchanged. Refused when memory is full.
--
-- KEYS     the fixed keys of the queue; used: cron w
-- ARGV     prefix, name, definition, template, priority, deadline (ms, -1: none), lifetime (ms,
--          -1: for ever), next occurrence (ms), 1: replace template and options though unchanged
-- RETURNS  the schedule in force; its next occurrence is 0 where the given one was refused
-- KEEPS    an unchanged definition keeps its instants, overdue or not; a changed one begins later
--          than now and than the last occurrence
-- AGAIN    renews the lifetime
--@include head
--@include effects
--@include schedule
local _, name, definition, template, priority, deadline, lifetime, at, replace = unpack(ARGV)
local key = SCHEDULE .. name
local stored = schedule_named(name)
local changed = not stored or stored[2] ~= definition
if changed then
  local last = tonumber(stored and stored[8] or -1)
  if tonumber(at) <= math.max(now, last) then
    return { name, definition, template, priority, deadline, lifetime, 0, ms(last) }
  end
  -- Whoever times the next occurrence may have to do it sooner.
  local first = call('ZRANGE', CRON, 0, 0, 'WITHSCORES')
  startable = not first[2] or tonumber(at) < tonumber(first[2])
end
if changed or replace == '1' then
  call('HSET', key, 'd', definition, 'b', template, 'p', priority, 'dl', deadline, 'ttl', lifetime)
else
  lifetime = stored[6]
end
if changed then call('ZADD', CRON, at, name) end
if lifetime == '-1' then call('PERSIST', key) else call('PEXPIRE', key, lifetime) end
conclude()
return schedule_named(name)
