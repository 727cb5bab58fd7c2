#!lua flags=allow-oom
-- Ends a membership. Its consumer is deleted where it owns nothing; a member that owns jobs yet
-- (in threads that nobody can stop) is left to its lease.
--
-- KEYS     the fixed keys of the queue; used: m c ci w
-- ARGV     prefix, incarnation
-- RETURNS  1 left, 0 left to its lease
-- KEEPS    a consumer is deleted only without pending entries
-- AGAIN    answers the same
--@include head
--@include effects
--@include forget_consumer
local name = ARGV[2]
local owns = forget_consumer(name)
if not owns then
  call('ZREM', LEASES, name)
  call('HDEL', INCARNATIONS, name, name .. '#')
end
-- The token that would have woken this worker is for another.
startable = true
conclude()
return owns and 0 or 1
