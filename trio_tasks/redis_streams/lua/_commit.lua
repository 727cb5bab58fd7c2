-- Applies outcomes, section by section; ARGV from `first` on as calls/stepping.py describes.
-- Needs `orphans`, `lifetime`, `requests`, and `relay`: whether the outbox has new rows.
--@include fence

-- What a start that is not the present one is told.
local function superseded(id, entry, token)
  local job = redis.pcall('HMGET', JOB .. id, 's', 'e', 'f', 'lt')
  if not job[1] then return 'G' end -- an error, too, has no fields
  local name = token.name
  local ended = job[2] == entry and job[3] and string.sub(job[3], -#name - 1) == ' ' .. name
  return (ended or job[4] == name .. ' ' .. entry) and 'R' or 'S'
end

-- A plain completion: two requests. HSET tells how many fields are new, and so whether the record
-- was there at all. As long as `f` has at most 64 bytes a small record stays in its compact form.
local function complete(id, entry, idle, result, section)
  local key = JOB .. id
  local null = result == 'null'
  if idle ~= section.idle then -- of one batch it is the same
    section.idle = idle
    local ended = NOW .. ' ' .. ms(idle) .. section.middle
    section.finished, section.null = ended .. '- ' .. section.token.name,
      ended .. 'n ' .. section.token.name
  end
  local finished = null and section.null or section.finished
  local with_result = result ~= '' and not null and section.retention > 0
  local new
  if with_result then
    new = redis.pcall('HSET', key, 's', 'c', 'f', finished, 'r', result)
  else
    new = redis.pcall('HSET', key, 's', 'c', 'f', finished)
  end
  if type(new) == 'table' then -- a record that is none counts as absent, and stays
    count('df')
    return 'G', true
  end
  if new == (with_result and 3 or 2) then
    call('DEL', key)
    count('df')
    return 'G', true
  end
  if section.lifetime then
    call('PEXPIRE', key, section.lifetime)
  else
    expire(id, section.retention)
  end
  if has_requests() then call('HDEL', CANCELS, id) end
  count('c')
  tell(id)
  return 'A', true
end

-- What outcomes of a section `O` need, made when the first one comes: it would cost twice as much
-- as a plain completion.
local parsed, apply, add_child
local function prepare_others()
  --@include enqueue
  --@include outcome
  return parsed, apply, add_child
end

local function commit(i, sections)
  local answers, acked, spent = {}, {}, {}
  for _ = 1, sections do
    local plain, incarnation, level = ARGV[i] == 'C', ARGV[i + 1], ARGV[i + 2]
    local deliveries = plain and 1 or tonumber(ARGV[i + 3])
    local section = { token = { name = deliveries .. ' ' .. incarnation, deliveries = deliveries } }
    if not plain and not parsed then parsed, apply, add_child = prepare_others() end
    if plain then
      section.retention = tonumber(ARGV[i + 3])
      section.middle = ' ' .. ARGV[i + 3] .. ' ' .. ARGV[i + 4] .. ' '
      section.lifetime = plain_lifetime(section.retention)
      i = i + 1
    end
    local first, last, number = ARGV[i + 4], ARGV[i + 5], tonumber(ARGV[i + 6])
    local present = fence(level, incarnation, deliveries, number, first, last)
    local acks, done = acked[level] or {}, spent[level] or {}
    acked[level], spent[level] = acks, done
    i = i + 7
    for _ = 1, number do
      local id, entry, answer, ack = ARGV[i], ARGV[i + 1]
      local idle = not done[entry] and present(entry)
      local outcome = not plain and parsed(ARGV[i + 2])
      if not idle then
        answer = superseded(id, entry, section.token)
      elseif plain then
        answer, ack = complete(id, entry, idle, ARGV[i + 2], section)
      else
        outcome.reason, outcome.body = ARGV[i + 3], ARGV[i + 4]
        answer, ack = apply(id, level, entry, section.token, idle, outcome)
      end
      i = i + (plain and 3 or 5)
      for _ = 1, outcome and tonumber(outcome.children) or 0 do
        if answer == 'A' then add_child(i) end
        i = i + 4
      end
      answers[#answers + 1] = answer
      if ack then acks[#acks + 1] = entry end
      if idle then done[entry] = true end
    end
  end
  for level, entries in pairs(acked) do
    for first = 1, #entries, 1000 do
      local last = math.min(first + 999, #entries)
      call('XACK', STREAM .. level, 'g', unpack(entries, first, last))
      call('XDEL', STREAM .. level, unpack(entries, first, last))
    end
  end
  return table.concat(answers)
end
