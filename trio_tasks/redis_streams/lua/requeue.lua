#!lua flags=allow-oom
-- Puts a dead job back: fresh attempts, no deadline, a new generation.
--
-- KEYS     the fixed keys of the queue; used: m w dlq ev
-- ARGV     prefix, job, the generation that the caller has read
-- RETURNS  'requeued', 'not_dead' (or in another generation by now) or 'missing'
-- KEEPS    one requeue per generation; the record keeps its data and emit numbers
-- AGAIN    'not_dead'
--@include head
--@include past
--@include ready
local id, generation = ARGV[2], tonumber(ARGV[3])
local job = call('HMGET', JOB .. id, 's', 'b', 'p', 'n', 'gen', 'rl', 'f')
local state, present = job[1], tonumber(job[5] or 0)
if not state then return 'missing' end
if past(job[7]) then return 'missing' end
if state ~= 'z' or present ~= generation or not legal('z', 'q') then return 'not_dead' end

local level = job[3]
local fields = { 'b', job[2], 's', 'q', 'e', add_entry(id, level, true), 'p', level,
  'gen', present + 1, 'rq', '1' }
if job[4] then fields[#fields + 1], fields[#fields + 2] = 'n', job[4] end
if job[6] then fields[#fields + 1], fields[#fields + 2] = 'rl', job[6] end
-- Deleting it clears all other fields (and a TTL, if it had one, which a HSET would leave).
call('DEL', JOB .. id)
call('HSET', JOB .. id, unpack(fields))
call('ZREM', DLQ, id)
tell(id)
conclude()
return 'requeued'
