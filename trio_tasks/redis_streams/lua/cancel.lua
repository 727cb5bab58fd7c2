#!lua flags=allow-oom
-- Cancels a job that does not run; leaves a request for the one who runs it.
--
-- KEYS     the fixed keys of the queue; used: m z x ev
-- ARGV     prefix, tombstone (ms), job, emit number ('-': the present life), reason, retention (ms)
-- RETURNS  'cancelled', 'noted', 'final' or 'missing'
-- KEEPS    a cancelled job that has not started never starts; only the life that the number
--          belongs to is cancelled
-- AGAIN    'final', or 'noted' as before
--@include head
--@include past
--@include end
local id, number, reason, retention = ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6])
local key = JOB .. id
local job = call('HMGET', key, 's', 'e', 'p', 'n', 'f', 'dg')
local state, entry, level, finished = job[1], job[2], job[3], job[5]
if not state then return 'missing' end
if past(finished) then return 'missing' end
local present = string.match(job[4] or '', '^[^|]*')
if finished or number ~= '-' and not has_word(present, number) then return 'final' end

if state == 'q' then
  local row = redis.pcall('XPENDING', STREAM .. level, 'g', entry, entry, 1)
  if row[1] and row[1][2] ~= RELEASED then
    call('HSET', CANCELS, id, reason)
    return 'noted'
  end
end
if not legal(state, 'x') then return 'final' end
end_idle(id, 'x', reason, nil, retention)
if job[6] then reopen(job[6], id) end
if state == 'd' then
  call('ZREM', DUE, id)
elseif entry then
  redis.pcall('XACK', STREAM .. level, 'g', entry)
  call('XDEL', STREAM .. level, entry)
end
-- A request from the time when it ran.
call('HDEL', CANCELS, id)
conclude()
return 'cancelled'
