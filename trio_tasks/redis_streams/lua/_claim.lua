-- What the dead have left behind and what was given back, in one level: oldest first, as new
-- deliveries for `incarnation`.

local function is_older(a, b)
  local a_ms, a_seq = string.match(a[1], '(%d+)-(%d+)')
  local b_ms, b_seq = string.match(b[1], '(%d+)-(%d+)')
  if a_ms == b_ms then return tonumber(a_seq) < tonumber(b_seq) end
  return tonumber(a_ms) < tonumber(b_ms)
end

-- Returns {{entry, fields, deliveries} …} and whether more are left.
local function claim(level, incarnation, want)
  local consumers = redis.pcall('XINFO', 'CONSUMERS', STREAM .. level, 'g')
  local rows, left, owners = {}, 0, {}
  for _, consumer in ipairs(consumers.err and {} or consumers) do
    local name, owned = consumer[2], consumer[4]
    if name == RELEASED or not call('ZSCORE', LEASES, name) then
      left = left + owned
      owners[#owners + 1] = name
      for _, row in ipairs(call('XPENDING', STREAM .. level, 'g', '-', '+', want, name)) do
        rows[#rows + 1] = row
      end
    end
  end
  table.sort(rows, is_older)
  local entries, deliveries = {}, {}
  for i = 1, math.min(want, #rows) do
    entries[i], deliveries[rows[i][1]] = rows[i][1], rows[i][4] + 1
  end
  local claimed = {}
  if #entries > 0 then
    -- It counts a delivery, and drops from the pending list what is not in the stream any more.
    local found = call('XCLAIM', STREAM .. level, 'g', incarnation, 0, unpack(entries))
    for i, entry in ipairs(found) do claimed[i] = { entry[1], entry[2], deliveries[entry[1]] } end
  end
  for _, name in ipairs(owners) do
    if name ~= RELEASED and not call('XPENDING', STREAM .. level, 'g', '-', '+', 1, name)[1] then
      call('XGROUP', 'DELCONSUMER', STREAM .. level, 'g', name)
    end
  end
  return claimed, left > #entries
end
