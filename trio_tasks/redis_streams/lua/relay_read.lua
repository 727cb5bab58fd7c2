#!lua flags=no-writes
-- The oldest rows of the outbox.
--
-- KEYS     the fixed keys of the queue; used: out
-- ARGV     prefix, limit, where to begin, as XRANGE has it
-- RETURNS  {now (ms), {{row, {field, value …}} …}}; a child has the fields q (target queue),
--          i (id), b (blob), o (options); a dead letter has s (stream) and what it consists of
--@include head
return { now, call('XRANGE', OUT, ARGV[3], '+', 'COUNT', ARGV[2]) }
