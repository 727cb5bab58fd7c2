#!lua flags=allow-oom
-- Who holds a debounce key; asked for starts that are about to run.
--
-- KEYS     the fixed keys of the queue
-- ARGV     prefix, tombstone (ms), then per ask: job, incarnation, level, entry, deliveries,
--          edge, window (ms), digest
-- RETURNS  per ask the holder's id, the asker's own if it may run; `<id>@<number>`: an earlier life
--          of the asker; nil: the start was superseded
-- KEEPS    leading: one life of one job per window and key. trailing: the key outlives the jobs
--          that may yet start under it
-- AGAIN    answers the same
--@include head
--@include end
--@include fence
-- The holder's record names the key: whoever ends the job, and knows no more of it, reopens it.
local function leading(digest, id, entry, window)
  local key, job = DEBOUNCE .. digest, redis.pcall('HMGET', JOB .. id, 'e', 'n', 'dg')
  if job[1] ~= entry then return false end
  local mine = life(id, job[2])
  local taken = call('SET', key, mine .. NOW, 'NX', 'PX', window)
  local holder = taken and mine or holder_of(digest)
  if not holder then -- spoilt: counts as absent
    call('SET', key, mine .. NOW, 'PX', window)
    holder = mine
  end
  if starts_with(holder, mine) then
    if job[3] ~= digest then call('HSET', JOB .. id, 'dg', digest) end
    return id
  end
  local other, number = string.match(holder, '^(%S+) (%S+)')
  return other == id and id .. '@' .. number or other
end

local function trailing(digest, id, window)
  local holder = holder_of(digest)
  if not holder then return id end
  call('PEXPIRE', DEBOUNCE .. digest, ms(window + TOMBSTONE))
  return string.match(holder, '^%S+')
end

local reply = {}
for i = 3, #ARGV, 8 do
  local id, incarnation, level, entry, deliveries, edge, window, digest = unpack(ARGV, i, i + 7)
  local holder = false
  if fence(level, incarnation, tonumber(deliveries), 1)(entry) then
    if edge == 'leading' then
      holder = leading(digest, id, entry, window)
    else
      holder = trailing(digest, id, window)
    end
  end
  reply[#reply + 1] = holder
end
return reply
