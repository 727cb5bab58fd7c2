-- Makes due jobs ready, at most 250 at a time.
--@include ready
local PROMOTED = 250

local function promote()
  local ids = call('ZRANGEBYSCORE', DUE, '-inf', NOW, 'LIMIT', 0, PROMOTED)
  for _, id in ipairs(ids) do
    local job = redis.pcall('HMGET', JOB .. id, 's', 'p', 'a', 'dl', 'us', 'gen')
    if job[1] == 'd' and legal('d', 'q') and string.find(job[2] or '', '^%d$') then
      local entry = add_entry(id, job[2], job[3] or job[4] or job[5] or job[6])
      call('HSET', JOB .. id, 's', 'q', 'e', entry)
    else
      count('df')
    end
  end
  -- They are in their streams: only now they may leave here.
  if #ids > 0 then call('ZREM', DUE, unpack(ids)) end
end
