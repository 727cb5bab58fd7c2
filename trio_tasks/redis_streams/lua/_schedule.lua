-- A schedule as calls/scheduling.py expects it; false: it is not there. -1 stands for none.
local function schedule_named(name)
  local row = call('HMGET', SCHEDULE .. name, 'd', 'b', 'p', 'dl', 'ttl', 'last')
  local at = call('ZSCORE', CRON, name)
  if not row[1] or not at then return false end
  return { name, row[1], row[2], row[3], row[4], row[5], at, row[6] or '-1' }
end
