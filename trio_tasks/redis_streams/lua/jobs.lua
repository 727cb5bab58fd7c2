#!lua flags=no-writes
-- Jobs in one state, in their order there.
--
-- KEYS     the fixed keys of the queue; used: z dlq
-- ARGV     prefix, state letter (q r d z), limit, id of the last job seen or ''
-- RETURNS  per job what lua/_describe.lua says
--@include head
--@include describe
local state, limit, after = ARGV[2], tonumber(ARGV[3]), ARGV[4]
local reply = {}

-- Whether that was enough.
local function add(id)
  local job = describe(id)
  if job and job[2] == state then reply[#reply + 1] = job end
  return #reply >= limit
end

local function from_set(key)
  local rank = after ~= '' and call('ZRANK', key, after)
  local from = rank and rank + 1 or 0
  repeat
    local ids = call('ZRANGE', key, from, from + 99)
    for _, id in ipairs(ids) do
      if add(id) then return end
    end
    from = from + 100
  until #ids < 100
end

-- Ids of the jobs of a level behind `from`, a page of them, and the last
-- entry seen (nil or false: there are no more).
local function queued_page(level, from)
  local page, running = {}, {}
  local entries = call('XRANGE', STREAM .. level, from, '+', 'COUNT', 100)
  if not entries[1] then return page, nil end
  local last = entries[#entries][1]
  local rows = redis.pcall('XPENDING', STREAM .. level, 'g', entries[1][1], last, 100)
  for _, row in ipairs(rows) do running[row[1]] = row[2] ~= RELEASED end
  for _, entry in ipairs(entries) do
    if not running[entry[1]] then page[#page + 1] = entry[2][2] end
  end
  return page, #entries == 100 and last
end

local function running_page(level, from)
  local page, rows = {}, redis.pcall('XPENDING', STREAM .. level, 'g', from, '+', 100)
  for _, row in ipairs(rows) do
    local found = row[2] ~= RELEASED and call('XRANGE', STREAM .. level, row[1], row[1])
    if found and found[1] then page[#page + 1] = found[1][2][2] end
  end
  return page, #rows == 100 and rows[100][1]
end

local function from_streams(page_of)
  local last = after ~= '' and describe(after)
  local at_level, from = 9, '-'
  if last and last[2] == state then
    local place = call('HMGET', JOB .. after, 'p', 'e')
    at_level, from = tonumber(place[1]), '(' .. place[2]
  end
  for level = at_level, 0, -1 do
    while from do
      local page, seen = page_of(level, from)
      for _, id in ipairs(page) do
        if add(id) then return end
      end
      from = seen and '(' .. seen
    end
    from = '-'
  end
end

if limit > 0 then
  if state == 'd' then from_set(DUE)
  elseif state == 'z' then from_set(DLQ)
  elseif state == 'r' then from_streams(running_page)
  else from_streams(queued_page) end
end
return reply
