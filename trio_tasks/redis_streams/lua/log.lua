#!lua
-- Appends log lines to a job that runs. Not allow-oom: refused when memory is full.
--
-- KEYS     the fixed keys of the queue
-- ARGV     prefix, job, incarnation, level, entry, deliveries, how many lines are kept, lines …
-- RETURNS  1, or 0 where the start was superseded and nothing was written
-- KEEPS    a log never outlives its record: its TTL is set by the outcome, which is fenced, too
-- AGAIN    doubles the lines
--@include head
--@include fence
local id = ARGV[2]
if not fence(ARGV[4], ARGV[3], tonumber(ARGV[6]), 1)(ARGV[5]) then return 0 end
local lines = {}
for i = 8, #ARGV do lines[#lines + 1] = NOW .. ' ' .. ARGV[i] end
for first = 1, #lines, 1000 do
  call('RPUSH', LOG .. id, unpack(lines, first, math.min(first + 999, #lines)))
end
call('LTRIM', LOG .. id, '-' .. ARGV[7], -1)
return 1
