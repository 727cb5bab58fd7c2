#!lua flags=allow-oom
-- Appends a dead job to the stream of a DeadLetterPolicy.
--
-- KEYS     1 the stream
-- ARGV     field, value …
-- RETURNS  nil
-- AGAIN    appends once more: at least once, each entry with id and generation
redis.call('XADD', KEYS[1], '*', unpack(ARGV))
