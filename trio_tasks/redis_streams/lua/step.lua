#!lua flags=allow-oom
-- Commits what starts have come to, then takes: the call of the steady state.
--
-- KEYS     the fixed keys of the queue; all are written
-- ARGV     prefix, tombstone (ms), incarnation, ordinal of the connection, want, lease (ms),
--          number of sections, sections (calls/stepping.py)
-- RETURNS  {answers, relay} and, if want > 0: status, now (ms), ms until the next due instant,
--          ms until the next tick (-1: none), then per level {level, {entry, id, blob, extra …}};
--          answers has one letter per outcome: A applied, R repeated, X cancelled instead,
--          P parked instead, S stale, G gone, E refused; relay: 1 if the outbox has new rows
-- HINT     with neither sections nor want it leaves one: its caller has one that he cannot use
-- KEEPS    an outcome is applied once, and only while its start is the present one; every
--          hand-out is a counted start, named by (incarnation, entry, deliveries)
-- AGAIN    answers R and takes more: with want > 0 it is never sent again
--@include head
--@include orphans
--@include lifetime
--@include requests
local incarnation, ordinal, want = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local sections = tonumber(ARGV[7])
local answers, relay = '', 0
local meta = call('HMGET', META, 'lv', 'rl', 'o', 'pa', 'bt')
levels, relays, orphans = meta[1] or '', meta[2], meta[3]

if sections > 0 then
  --@include commit
  answers = commit(8, sections)
end
if want == 0 then
  startable = startable or sections == 0
  conclude()
  return { answers, relay }
end

--@include leases
--@include take
local function first_of(key)
  local first = call('ZRANGE', key, 0, 0, 'WITHSCORES')
  return first[2] and math.min(math.max(0, first[2] - now), FAR) or -1, first[1]
end

local function next_tick()
  local tick, name = first_of(CRON)
  while name and call('EXISTS', SCHEDULE .. name) == 0 do -- its lifetime is over
    call('ZREM', CRON, name)
    tick, name = first_of(CRON)
  end
  return tick
end

local status, reply, quiet, due = 'taken', {}, false, -1
renew_after_outage(tonumber(ARGV[6]), meta[5])
declare_dead()
local known = call('ZSCORE', LEASES, incarnation)
if not known then
  status = 'dead'
elseif (tonumber(call('HGET', INCARNATIONS, incarnation .. '#')) or 0) > ordinal then
  status = 'old'
else
  due = first_of(DUE)
  if meta[4] then
    status, quiet = 'paused', true
  else
    if due == 0 then
      --@include promote
      promote()
      due = first_of(DUE)
    end
    local used, more = hand_out(reply, incarnation, want)
    if not used then
      status = 'dead' -- a group was destroyed: register creates it anew
    else
      -- Whoever has free slots times the next due instant himself; but if it is one that this step
      -- has made, his wait may have begun before, and its end lie later.
      startable = more or used == want and due >= 0
    end
  end
end
conclude(quiet)
return { answers, relay, status, now, due, next_tick(), unpack(reply) }
