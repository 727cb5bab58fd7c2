-- A new job: identity, trailing debounce, and where it goes. Needs ARGV[2]: see `_lifetime`.
--@include ready
--@include plain
--@include end
local KEPT = 16 -- emit numbers

-- '+ms' from now on, '=ms' an instant, '-' none.
local function instant(word)
  local sign, number = string.sub(word, 1, 1), tonumber(string.sub(word, 2))
  return sign == '+' and now + number or sign == '=' and number or nil
end

-- Both newest first; those of earlier lives are forgotten first, the maker of this one never.
local function joined(present, earlier)
  local _, number = string.gsub(present .. ' ' .. earlier, '%S+', '')
  for _ = KEPT + 1, number do
    if earlier ~= '' then
      earlier = string.match(earlier, '^(.-)%s*%S+$')
    else
      present = string.gsub(present, '%S+ (%S+)$', '%1')
    end
  end
  return earlier == '' and present or present .. '|' .. earlier
end

-- What a job that exists answers to an emit; nil: it has ended and this emit begins a new life.
local function answered(id, state, numbers, number, late)
  if number == '-' then return '1' end -- a minted id: this emit's, sent again
  local present, earlier = string.match(numbers or '-', '^([^|]*)|?(.*)$')
  if has_word(present, number) then return maker(present) == number and '1' or '0' end
  if has_word(earlier, number) then return '0' end
  if late or state == 'q' or state == 'd' then
    call('HSET', JOB .. id, 'n', joined(number .. ' ' .. present, earlier))
    return '0'
  end
end

-- Trailing debounce: the last job of the key is replaced if it waits; the key names this one.
local function become_last(digest, id, number, window, retention)
  local last, since = holder_of(digest), NOW
  if last then
    local former, _, burst = string.match(last, '^(%S+) (%S+) (%S+)$')
    local job = redis.pcall('HMGET', JOB .. former, 's', 'n')
    if job[1] == 'd' and legal('d', 's') and starts_with(last, life(former, job[2])) then
      call('ZREM', DUE, former)
      end_idle(former, 's', 'debounced', id, retention)
      since = burst
    end
  end
  local value = id .. ' ' .. number .. ' ' .. since
  call('SET', DEBOUNCE .. digest, value, 'PX', ms(window + TOMBSTONE))
end

-- Returns '1': made by this emit, now or when it was sent before, '0': by another one.
local function enqueue(id, blob, options)
  if options == '' then
    if not legal('-', 'q') then return '0' end
    if store_plain(id, blob) then
      use_level('0')
      startable = true
      count('em')
    end
    return '1'
  end
  local key = JOB .. id
  local level, number, due, deadline, digest, window, retention, mode =
    string.match(options, '^(%d) (%S+) (%S+) (%S+) (%S+) (%d+) (%d+) (%l)$')
  local old = redis.pcall('HMGET', key, 's', 'n', 'gen')
  if old.err then -- no record lies there: whoever needs it is told the name
    error({ err = 'MISPLACED key ' .. key .. ' is not a hash: rename or delete it' })
  end
  local answer = old[1] and answered(id, old[1], old[2], number, mode == 'l')
  if answer then return answer end

  local at, dead_at = instant(due), instant(deadline)
  if digest ~= '-' then at = now + window end
  local state = mode == 'l' and 'z' or at and at > now and 'd' or 'q'
  if not legal(old[1] or '-', state) then return '0' end
  if digest ~= '-' and state ~= 'z' then
    become_last(digest, id, number, window, tonumber(retention))
  end

  local fields = { 'b', blob, 's', state, 'p', level }
  local function set(name, value) fields[#fields + 1], fields[#fields + 2] = name, value end
  if state == 'q' then set('e', add_entry(id, level, dead_at or old[1])) end
  if state == 'd' then set('due', ms(at)); set('why', digest ~= '-' and 'debounce' or 'delay') end
  if state == 'z' then set('f', NOW .. ' - - - -'); set('why', 'relayed_late') end
  if dead_at then set('dl', ms(dead_at)) end
  if number ~= '-' then set('n', joined(number, string.gsub(old[2] or '', '|', ' '))) end
  if mode ~= 'e' then set('rl', '1'); relays = '1'; call('HSET', META, 'rl', '1') end
  if old[1] then
    set('gen', (old[3] or 0) + 1)
    -- Deleting it clears all fields, and the TTL, which a HSET would leave.
    call('DEL', key, LOG .. id)
    if call('ZREM', DLQ, id) == 1 then count('rm') end
  end
  call('HSET', key, unpack(fields))
  if state == 'd' then add_delay(id, at) end
  if state == 'z' then call('ZADD', DLQ, NOW, id) end
  if state == 'z' or old[1] then tell(id) end
  count('em')
  return '1'
end

-- Jobs from ARGV[first] on, three arguments each; their answers in one string.
local function enqueue_all(first)
  local answers = {}
  for i = first, #ARGV, 3 do
    answers[#answers + 1] = enqueue(ARGV[i], ARGV[i + 1], ARGV[i + 2])
  end
  return table.concat(answers)
end
