#!lua flags=no-writes
-- RETURNS  server time (ms)
--@include head
return now
