#!lua flags=allow-oom
-- Removes rows from the outbox whose targets have answered.
--
-- KEYS     the fixed keys of the queue; used: out ev
-- ARGV     prefix, then the rows
-- RETURNS  how many of them were there
-- KEEPS    a row leaves only after its child is stored
-- AGAIN    0
--@include head
local removed = 0
for first = 2, #ARGV, 1000 do
  removed = removed + call('XDEL', OUT, unpack(ARGV, first, math.min(first + 999, #ARGV)))
end
-- Who waits until the queue is idle waits for its outbox, too.
if removed > 0 then call('XADD', EVENTS, 'MAXLEN', '~', 1000, '*', 'i', '') end
return removed
