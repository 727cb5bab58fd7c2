-- Making jobs startable, now or at an instant.
--@include effects
--@include legal
local function use_level(level)
  if not string.find(levels_in_use(), level, 1, true) then
    local upper = string.match(levels, '^[' .. level .. '-9]*')
    levels = upper .. level .. string.sub(levels, #upper + 1)
    levels_changed = true
  end
end

-- Makes a job startable; returns its entry. `rare`: its start needs more of the record than `b`.
local function add_entry(id, level, rare)
  use_level(level)
  startable = true
  if rare then return call('XADD', STREAM .. level, '*', 'i', id, 'k', '1') end
  return call('XADD', STREAM .. level, '*', 'i', id)
end

local function add_delay(id, at)
  delayed[id] = true
  call('ZADD', DUE, ms(at), id)
end
