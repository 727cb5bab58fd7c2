-- A plain new job: ready at once, priority 0, minted id.
--@include ready

-- Returns as `enqueue` does.
local function enqueue_plain(id, blob)
  if not legal('-', 'q') then return '0' end
  local key = JOB .. id
  if call('EXISTS', key) == 1 then return '1' end -- this emit's, sent again
  call('HSET', key, 'b', blob, 's', 'q', 'e', add_entry(id, '0'), 'p', '0')
  count('em')
  return '1'
end
