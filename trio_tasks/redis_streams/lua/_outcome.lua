-- Applies one outcome of a section `O` (see calls/stepping.py) whose start is the present one.
-- Its words, in this order; the kinds are c complete, t retry, k park, u release, i release of a
-- begun attempt, v release that counts, z die, s skip, x cancel.
local TARGETS = { c = 'c', t = 'd', k = 'd', u = 'q', i = 'q', v = 'q', z = 'z', s = 's', x = 'x' }
--@include park

local function parsed(words)
  local list = {}
  for word in string.gmatch(words, '%S+') do list[#list + 1] = word ~= '~' and word end
  local function at(n) return list[n] or nil end
  return {
    kind = list[1], attempt = list[2], retention = list[3], attempts = at(4), delay = list[5],
    since = at(6), by = at(7), stream = at(8), generation = list[9],
    unless = list[10], event = at(11), logged = list[12], children = list[13],
    ran = list[14] == '1',
  }
end

-- Whether a living incarnation lists the event.
local function served(event)
  for _, name in ipairs(call('ZRANGEBYSCORE', LEASES, '(' .. NOW, '+inf')) do
    local about = call('HGET', INCARNATIONS, name) or ''
    local events = string.find(about, '\n\n', 1, true)
    if events and string.find(about, '\n' .. event .. '\n', events + 1, true) then return true end
  end
  return false
end

local function publish(id, o)
  call('XADD', OUT, '*', 's', o.stream, 'i', id, 'g', o.generation, 'v', o.event or '',
    'w', o.reason, 'a', o.used, 't', NOW, 'er', o.body, 'b', call('HGET', JOB .. id, 'b') or '')
end

-- Returns the answer, and whether the entry is to be acked and deleted.
local function apply(id, level, entry, token, idle, o)
  local key, answer, kind = JOB .. id, 'A', o.kind
  local job = redis.pcall('HMGET', key, 'e', 'us', 'dg')
  if job.err or job[1] ~= entry then count('df'); return 'G', true end

  local asked = cancel_request(id)
  if asked and kind ~= 'c' and kind ~= 'x' then
    kind, answer, o.reason = 'x', 'X', asked
  elseif o.unless == '1' and served(o.event or '') then
    kind, answer, o.reason, o.delay, o.since = 'k', 'P', 'parked', PARK, NOW
  end
  local state = TARGETS[kind]
  if not state or not legal('r', state) then return 'E', false end

  -- A retry counts though no handler began: what failed before would fail for ever.
  local counts = kind == 'v' or kind == 't'
    or o.ran and kind ~= 'k' and kind ~= 'u' and kind ~= 'i'
  local used = counts and tonumber(o.attempt) or o.attempt - 1
  o.used = used
  local set = { 's', state }
  local function put(name, value) set[#set + 1], set[#set + 2] = name, value end
  if used > 0 then put('a', used) end
  if o.body ~= '' and kind ~= 'c' then put('er', o.body) end

  if state == 'q' then
    -- The count of deliveries goes on, so that no later start has this token: it is made good.
    put('gb', token.deliveries)
    if kind == 'i' then call('HINCRBY', key, 'gi', 1) end
    call('XCLAIM', STREAM .. level, 'g', RELEASED, 0, entry, 'JUSTID')
    leave_orphans()
  elseif token.deliveries > 1 then
    call('HDEL', key, 'gb')
  end
  if state == 'd' then
    if kind == 'k' and not job[2] then put('us', o.since) end
    put('due', ms(now + o.delay)); put('why', o.reason)
    add_delay(id, now + o.delay)
  end
  if state == 'q' or state == 'd' then
    put('lt', token.name .. ' ' .. entry)
    if o.attempts then put('mx', o.attempts) end
  else
    local kept = state == 'z' and '-' or o.retention
    local null = kind == 'c' and o.body == 'null'
    put('f', table.concat({ NOW, ms(idle), kept, o.attempts or '-', null and 'n' or '-',
      token.name }, ' '))
    if kind == 'c' then
      if o.body ~= '' and not null and o.retention ~= '0' then put('r', o.body) end
    else
      put('why', o.reason)
      if kind == 's' and o.by then put('by', o.by) end
    end
  end
  call('HSET', key, unpack(set))

  if state == 'z' then
    call('ZADD', DLQ, NOW, id)
    if o.stream then publish(id, o); relay = 1 end
  elseif state ~= 'q' and state ~= 'd' then
    count(state)
    local lifetime = expire(id, tonumber(o.retention))
    if o.logged == '1' or used > 1 or token.deliveries > 1 or o.generation ~= '0' then
      call('PEXPIRE', LOG .. id, lifetime)
    end
  end
  if (state == 'z' or state == 'x') and job[3] then reopen(job[3], id) end
  if asked then call('HDEL', CANCELS, id) end
  tell(id)
  return answer, state ~= 'q'
end

local function add_child(i)
  local queue, id, blob, options = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  if queue == '' then return enqueue(id, blob, options) end
  if options == '' then options = '0 - - - - 0 0 e' end
  -- Delays count from now, not from the arrival.
  options = string.gsub(options, '%+(%d+)', function(delay) return '=' .. ms(now + delay) end)
  call('XADD', OUT, '*', 'q', queue, 'i', id, 'b', blob, 'o', string.sub(options, 1, -2) .. 'r')
  relay = 1
end
