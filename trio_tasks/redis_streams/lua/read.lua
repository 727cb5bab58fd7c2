#!lua flags=no-writes
-- Jobs by id.
--
-- KEYS     the fixed keys of the queue
-- ARGV     prefix, 1: with logs, then the ids
-- RETURNS  per id what lua/_describe.lua says, or nil
--@include head
--@include describe
local reply = {}
for i = 3, #ARGV do reply[#reply + 1] = describe(ARGV[i], ARGV[2] == '1') end
return reply
