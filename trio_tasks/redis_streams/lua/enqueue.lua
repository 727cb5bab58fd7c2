#!lua
-- Stores up to 250 new jobs, all or nothing. Not allow-oom: refused when memory is full.
--
-- KEYS     the fixed keys of the queue; used: m c ci z w dlq ev
-- ARGV     prefix, tombstone (ms), then per job: id, blob, options (calls/emitting.py)
-- RETURNS  one digit per job: 1 made by this emit, 0 it is there already
-- KEEPS    one id is one job; each queued job has one entry
-- AGAIN    finds the jobs; those with an emit number answer as they did before
--@include head
--@include enqueue
local answers = enqueue_all(3)
conclude()
return answers
