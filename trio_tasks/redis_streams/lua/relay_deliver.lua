#!lua flags=allow-oom
-- `enqueue` for children that come from another queue: never refused for want of memory.
--
-- KEYS     the fixed keys of the target queue
-- ARGV     prefix, tombstone (ms), then per child: id, blob, options with mode r or l
-- RETURNS  nil
-- KEEPS    a child exists once, even if it is relayed late and again: then as a dead job
-- AGAIN    changes nothing
--@include head
--@include enqueue
enqueue_all(3)
conclude()
