-- The fence: which starts are still what their tokens say. A start is (incarnation, entry,
-- deliveries); it is the present one while the pending list says the same.
local function pending(level, incarnation, first, last, limit)
  local rows = unless_misplaced(
    redis.pcall('XPENDING', STREAM .. level, 'g', first, last, limit, incarnation))
  return rows.err and {} or rows -- no stream or no group: nothing is pending
end

-- A function (entry) → ms since it was handed out, or nil where the start was superseded. One
-- request serves starts that lie together, from the entry `first` to `last`.
local function fence(level, incarnation, deliveries, number, first, last)
  local idle, complete = {}, false
  local function look(from, to, limit)
    local rows = pending(level, incarnation, from, to, limit)
    for _, row in ipairs(rows) do
      idle[row[1]] = row[4] == deliveries and row[3] or false
    end
    return #rows < limit
  end
  if number > 1 then complete = look(first, last, 2 * number + 16) end
  return function(entry)
    if idle[entry] == nil and not complete then look(entry, entry, 1) end
    return idle[entry] or nil
  end
end
