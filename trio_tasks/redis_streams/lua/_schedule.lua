-- A schedule as calls/scheduling.py expects it; false: it is not there, or so damaged that nobody
-- could read it. -1 stands for none.
local function schedule_named(name)
  local row = redis.pcall('HMGET', SCHEDULE .. name, 'd', 'b', 'p', 'dl', 'ttl', 'last')
  local at = call('ZSCORE', CRON, name)
  local function whole(value) return value and string.find(value, '^-?%d+$') end
  if not (string.find(name, '^[%w_.:-]+$') and row[1] and row[2] and whole(row[3])
      and whole(row[4]) and whole(row[5]) and whole(at) and whole(row[6] or '-1')) then
    return false
  end
  return { name, row[1], row[2], row[3], row[4], row[5], at, row[6] or '-1' }
end
