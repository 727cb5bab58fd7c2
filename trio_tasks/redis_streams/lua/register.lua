#!lua flags=allow-oom
-- Adds a member, always under a fresh name, and creates the groups of all levels at 0.
--
-- KEYS     the fixed keys of the queue; used: m c ci
-- ARGV     prefix, incarnation, lease (ms), consumer id, host, then the events it has handlers for
-- RETURNS  {how many other members bear the consumer id, how many defects the queue has had}
-- KEEPS    only a member may take; only this script adds one
-- AGAIN    renews the lease
--@include head
--@include leases
local name, lease, consumer = ARGV[2], ARGV[3], ARGV[4]
for level = 0, 9 do
  local made = redis.pcall('XGROUP', 'CREATE', STREAM .. level, 'g', 0, 'MKSTREAM')
  if made.err and not string.find(made.err, 'BUSYGROUP', 1, true) then return made end
end
local namesakes = 0
for _, other in ipairs(call('ZRANGE', LEASES, 0, -1)) do
  local label = string.match(call('HGET', INCARNATIONS, other) or '', '^%d+\n([^\n]*)\n')
  if other ~= name and label == consumer then namesakes = namesakes + 1 end
end
local events = table.concat(ARGV, '\n', 6)
local about = table.concat({ lease, consumer, ARGV[5], '', events, '' }, '\n')
call('HSET', INCARNATIONS, name, about)
call('HSETNX', META, 'v', 1)
-- Who joins is heard: where workers never live until their first beat, that is no outage.
renew_after_outage(tonumber(lease), call('HGET', META, 'bt'))
call('HSET', META, 'bt', NOW)
call('ZADD', LEASES, ms(now + lease), name)
return { namesakes, tonumber(call('HGET', META, 'df')) or 0 }
