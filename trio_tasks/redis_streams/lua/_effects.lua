-- What many steps have in common, done once at the end of the script by `conclude`: counters, the
-- event entry, the levels in use, the token.
local counted, told, delayed = {}, {}, {}
local startable = false
local levels, levels_changed

local function count(name) counted[name] = (counted[name] or 0) + 1 end

-- Something has happened to this job that a watcher may wait for.
local function tell(id) told[#told + 1] = id end

-- The levels whose streams may hold entries: digits, highest first.
local function levels_in_use()
  levels = levels or call('HGET', META, 'lv') or ''
  return levels
end

local function pass_token()
  if call('LLEN', WAKE) == 0 then call('RPUSH', WAKE, '1') end
end

-- `quiet`: the caller knows that nobody has to be woken.
local function conclude(quiet)
  for name, number in pairs(counted) do
    local total = redis.pcall('HINCRBY', META, name, number)
    -- Not a number? What comes must be counted all the same.
    if type(total) == 'table' then call('HSET', META, name, number) end
  end
  if #told > 0 then call('XADD', EVENTS, 'MAXLEN', '~', 1000, '*', 'i', table.concat(told, ' ')) end
  if levels_changed then call('HSET', META, 'lv', levels) end
  if quiet then return end
  if not startable and next(delayed) then
    startable = delayed[call('ZRANGE', DUE, 0, 0)[1]]
  end
  if startable then pass_token() end
end
