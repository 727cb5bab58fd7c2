-- The record and the entry of a plain new job: ready at once, priority 0, minted id. Whoever stores
-- it asks whether that is legal, counts it, sees that level 0 is in use, and leaves a token.
--@include legal

-- Returns whether it was made; if not, this emit was sent before.
local function store_plain(id, blob)
  local key = JOB .. id
  if call('EXISTS', key) == 1 then return false end
  call('HSET', key, 'b', blob, 's', 'q', 'e', call('XADD', STREAM .. '0', '*', 'i', id), 'p', '0')
  return true
end
