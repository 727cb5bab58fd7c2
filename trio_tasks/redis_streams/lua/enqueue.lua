#!lua
-- Stores up to 250 new jobs, all or nothing. Not allow-oom: refused when memory is full.
--
-- KEYS     the fixed keys of the queue; used: m c ci z w dlq ev
-- ARGV     prefix, tombstone (ms), then per job: id, blob, options (calls/emitting.py)
-- RETURNS  one digit per job: 1 made by this emit, 0 it is there already
-- KEEPS    one id is one job; each queued job has one entry
-- AGAIN    finds the jobs; those with an emit number answer as they did before
--@include names
--@include plain
local plain = true
for i = 5, #ARGV, 3 do plain = plain and ARGV[i] == '' end
local answers
if plain then -- what only other jobs need would cost three times as much as one of these
  answers = {}
  for i = 3, #ARGV, 3 do answers[#answers + 1] = enqueue_plain(ARGV[i], ARGV[i + 1]) end
  answers = table.concat(answers)
else
  --@include head
  --@include enqueue
  answers = enqueue_all(3)
end
conclude()
return answers
