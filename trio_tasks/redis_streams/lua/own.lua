#!lua flags=allow-oom
-- The first request on a new connection: closes the former ones, gives back (uncounted) all starts
-- of the incarnation that the worker does not have in memory, and tells which of those it has are
-- no longer its own. A server that went back behind one of them, because it lost its last write,
-- would hand it out again under the same token: then the incarnation must end.
--
-- KEYS     the fixed keys of the queue; used: m c ci w
-- ARGV     prefix, incarnation, ordinal, then per token in memory: level, entry, deliveries
-- RETURNS  {'owned', index of each token that is lost …}, the same with 'forgotten' if one of them
--          may come again, {'old'} or {'dead'}
-- KEEPS    no start is in nobody's memory; a take of an older connection starts nothing
-- AGAIN    answers the same
--@include head
--@include orphans
local incarnation, ordinal = ARGV[2], tonumber(ARGV[3])
if not call('ZSCORE', LEASES, incarnation) then return { 'dead' } end
local newest = tonumber(call('HGET', INCARNATIONS, incarnation .. '#'))
if newest and newest > ordinal then return { 'old' } end

local have, lost = {}, {}
for i = 4, #ARGV, 3 do have[ARGV[i] .. ' ' .. ARGV[i + 1] .. ' ' .. ARGV[i + 2]] = (i - 1) / 3 end

local function give_back(level, entry, deliveries)
  local found = call('XRANGE', STREAM .. level, entry, entry)
  local id = found[1] and found[1][2][2]
  local job = id and redis.pcall('HMGET', JOB .. id, 'e', 'a', 'gb')
  if not id or job[1] ~= entry then
    call('XACK', STREAM .. level, 'g', entry)
    call('XDEL', STREAM .. level, entry)
    return count('df')
  end
  -- `a` of a queued job is what was used; the deliveries up to now are made good.
  local used = (tonumber(job[2]) or 0) + deliveries - (tonumber(job[3]) or 0) - 1
  call('XCLAIM', STREAM .. level, 'g', RELEASED, 0, entry, 'JUSTID')
  call('HSET', JOB .. id, 'gb', deliveries)
  if used > 0 then call('HSET', JOB .. id, 'a', used) end
  leave_orphans()
end

for level in string.gmatch(levels_in_use(), '%d') do
  local from = '-'
  repeat
    local rows = redis.pcall('XPENDING', STREAM .. level, 'g', from, '+', 1000, incarnation)
    for _, row in ipairs(rows) do
      local token = level .. ' ' .. row[1] .. ' ' .. row[4]
      if have[token] then
        have[token] = nil
      else
        give_back(level, row[1], row[4])
      end
      from = '(' .. row[1]
    end
  until #rows < 1000
end
-- Whether its entry is there and was delivered less often than the token says.
local function may_come_again(level, entry, deliveries)
  if not call('XRANGE', STREAM .. level, entry, entry)[1] then return false end
  local row = redis.pcall('XPENDING', STREAM .. level, 'g', entry, entry, 1)[1]
  return type(row) ~= 'table' or row[4] < tonumber(deliveries)
end

local status = 'owned'
for _, index in pairs(have) do
  lost[#lost + 1] = index
  if may_come_again(unpack(ARGV, 3 * index + 1, 3 * index + 3)) then status = 'forgotten' end
end
table.sort(lost)
call('HSET', INCARNATIONS, incarnation .. '#', ordinal)
conclude()
return { status, unpack(lost) }
