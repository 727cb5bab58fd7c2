#!lua flags=allow-oom
-- Renews the lease of a member, declares others dead, collects cancel requests.
--
-- KEYS     the fixed keys of the queue; used: m c ci w x
-- ARGV     prefix, incarnation, lease (ms)
-- RETURNS  {alive, now (ms), defects, job, reason, …}: alive 0: not a member, register anew; how
--          many defects the queue has had; then the cancel requests for jobs that it runs, each
--          answered until its outcome removes it
-- KEEPS    a beat renews members only; a live worker's jobs are never taken
-- AGAIN    harmless
--@include head
--@include effects
--@include leases
local incarnation, lease = ARGV[2], tonumber(ARGV[3])
local alive = call('ZSCORE', LEASES, incarnation)
local meta = call('HMGET', META, 'bt', 'df')
if alive then
  renew_after_outage(lease, meta[1])
  call('ZADD', LEASES, 'XX', ms(now + lease), incarnation)
  call('HSET', META, 'bt', NOW)
end
declare_dead()

local reply = { alive and 1 or 0, now, tonumber(meta[2]) or 0 }
local noted = alive and call('HGETALL', CANCELS) or {}
for i = 1, #noted, 2 do
  local job = redis.pcall('HMGET', JOB .. noted[i], 'p', 'e')
  local level, entry = job[1], job[2]
  local row = level and entry
    and redis.pcall('XPENDING', STREAM .. level, 'g', entry, entry, 1)
  if row and row[1] and row[1][2] == incarnation then
    reply[#reply + 1], reply[#reply + 2] = noted[i], noted[i + 1]
  end
end
conclude()
return reply
