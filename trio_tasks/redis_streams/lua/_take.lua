-- Hands out up to `want` entries: level by level, in each what is left behind before what is new.
-- Needs `orphans` and `requests`.

-- An entry as a start: appends entry, job, blob, extra, or drops an entry without a job. `extra`
-- is empty if all is as with a first delivery, else it has (see calls/stepping.py): attempt,
-- deliveries, deadline, unknown since, interruptions, generation, requeued, reason of a cancel
-- request.
local function start(rows, level, entry, fields, deliveries, claimed)
  local id, blob, extra = fields[2], nil, ''
  if claimed or fields[3] then
    local job =
      redis.pcall('HMGET', JOB .. id, 'b', 's', 'e', 'a', 'gb', 'dl', 'us', 'gi', 'gen', 'rq')
    if job[2] == 'q' and job[3] == entry then
      blob = job[1]
      -- A field that somebody has spoilt counts as absent.
      local function number(n, default)
        local value = job[n] or ''
        return #value < 16 and string.find(value, '^%d+$') and value or default
      end
      local attempt = math.max(1, number(4, 0) + deliveries - number(5, 0))
      local reason = claimed and cancel_request(id)
      extra = table.concat({ ms(attempt), deliveries, number(6, '-'), number(7, '-'), number(8, 0),
        number(9, 0), number(10, 0), reason and '!' .. reason or '' }, ' ')
    end
  else
    blob = redis.pcall('HGET', JOB .. id, 'b')
    if type(blob) == 'table' then blob = nil end
  end
  if not blob then
    call('XACK', STREAM .. level, 'g', entry)
    call('XDEL', STREAM .. level, entry)
    return count('df')
  end
  local n = #rows
  rows[n + 1], rows[n + 2], rows[n + 3], rows[n + 4] = entry, id, blob, extra
end

-- The new entries of a level. Returns nil if the group is gone, else the entries.
local function read_new(level, incarnation, room)
  local read = unless_misplaced(redis.pcall('XREADGROUP', 'GROUP', 'g', incarnation,
    'COUNT', room, 'STREAMS', STREAM .. level, '>'))
  if not read then return {} end
  if read.err then return nil end
  return read[1][2]
end

local function has_newer(level, entry)
  local newest = call('XREVRANGE', STREAM .. level, '+', '-', 'COUNT', 1)[1]
  return newest and newest[1] ~= entry
end

-- Appends {level, rows} per level to `reply`. Returns how many entries were used up and whether
-- others may be startable; nil: a group is gone.
local function hand_out(reply, incarnation, want)
  local used, more, behind = 0, false, false
  for level in string.gmatch(levels_in_use(), '%d') do
    if used == want then return used, true end
    local rows = {}
    if orphans then
      --@include claim
      local claimed, left = claim(level, incarnation, want - used)
      for _, entry in ipairs(claimed) do start(rows, level, entry[1], entry[2], entry[3], true) end
      used, behind = used + #claimed, left
    end
    local room = want - used
    local entries = room > 0 and read_new(level, incarnation, room)
    if entries == nil then
      if #reply == 0 then return nil end
    elseif entries then
      for _, entry in ipairs(entries) do start(rows, level, entry[1], entry[2], 1, false) end
      used = used + #entries
      if #entries == room then
        more = has_newer(level, entries[room][1])
      elseif #entries == 0 and call('XLEN', STREAM .. level) == 0 then
        levels, levels_changed = string.gsub(levels, level, ''), true
      end
    else
      more = true
    end
    if #rows > 0 then reply[#reply + 1] = { level, rows } end
  end
  if orphans and not behind then call('HDEL', META, 'o') end
  return used, more
end
