#!lua flags=allow-oom
-- Moves rows out of the outbox that cannot be read, so that they neither hide others nor are lost.
--
-- KEYS     the fixed keys of the queue; used: out ev; and its stream of rows set aside
-- ARGV     prefix, then the rows
-- RETURNS  how many of them were there
-- KEEPS    about the last 1000, each with its fields and `row`, the name it had in the outbox
-- AGAIN    0
--@include head
local moved = 0
for index = 2, #ARGV do
  local entry = call('XRANGE', OUT, ARGV[index], ARGV[index])[1]
  if entry then
    local fields = entry[2]
    call('XADD', PREFIX .. 'aside', 'MAXLEN', '~', 1000, '*', 'row', entry[1], unpack(fields))
    call('XDEL', OUT, entry[1])
    moved = moved + 1
  end
end
if moved > 0 then call('XADD', EVENTS, 'MAXLEN', '~', 1000, '*', 'i', '') end
return moved
