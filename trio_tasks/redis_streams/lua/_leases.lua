-- Who is alive, and what the dead leave behind.
--@include orphans

-- Nobody was heard for more than half a lease: the server was away or its clock has jumped, so
-- silence proves nothing. (A third makes a lone survivor wait for ever, two thirds steals.)
local function renew_after_outage(lease, last_beat)
  last_beat = tonumber(last_beat)
  if not last_beat or math.abs(now - last_beat) <= lease / 2 then return end
  for _, name in ipairs(call('ZRANGE', LEASES, 0, -1)) do
    local theirs = string.match(call('HGET', INCARNATIONS, name) or '', '^%d+')
    call('ZADD', LEASES, 'XX', ms(now + (theirs or lease)), name)
  end
end

local function declare_dead()
  for _, name in ipairs(call('ZRANGEBYSCORE', LEASES, '-inf', NOW, 'LIMIT', 0, 100)) do
    call('ZREM', LEASES, name)
    call('HDEL', INCARNATIONS, name, name .. '#')
    --@include forget_consumer
    if forget_consumer(name) then leave_orphans() end
  end
end
