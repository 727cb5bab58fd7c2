#!lua
-- Stores up to 250 plain jobs, all or nothing: ready at once, priority 0, minted ids. Nearly all
-- jobs are, and a lone one pays for the whole script, so it makes none of the helpers of `enqueue`.
-- Not allow-oom: refused when memory is full.
--
-- KEYS     two of the fixed keys of the queue: m w
-- ARGV     prefix, then per job: id, blob
-- RETURNS  one digit per job, as `enqueue`: 1, as nobody else has such an id
-- KEEPS    one id is one job; each queued job has one entry
-- AGAIN    finds the jobs
local META, WAKE = KEYS[1], KEYS[2]
local JOB, STREAM = ARGV[1] .. 'j:', ARGV[1] .. 's:'
local call = redis.call
--@include plain
local levels = call('HGET', META, 'lv') or ''
local jobs, made = (#ARGV - 1) / 2, 0
if not legal('-', 'q') then return string.rep('0', jobs) end
for i = 2, #ARGV, 2 do
  if store_plain(ARGV[i], ARGV[i + 1]) then made = made + 1 end
end
if made > 0 then -- as `conclude` does
  if not string.find(levels, '0', 1, true) then call('HSET', META, 'lv', levels .. '0') end
  local total = redis.pcall('HINCRBY', META, 'em', made)
  if type(total) == 'table' then call('HSET', META, 'em', made) end
  if call('LLEN', WAKE) == 0 then call('RPUSH', WAKE, '1') end
end
return string.rep('1', jobs)
