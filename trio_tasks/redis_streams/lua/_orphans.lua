-- What nobody runs, though it was handed out once.
--@include effects
-- '1': entries lie about that were given back or belong to the dead (kept in `m` as `o`).
local orphans

local function leave_orphans()
  startable = true
  if not orphans then call('HSET', META, 'o', '1') end
  orphans = '1'
end
