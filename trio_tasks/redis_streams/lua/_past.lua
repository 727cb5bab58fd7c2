-- Whether a job has ended and its retention is over: readers treat it as gone. `finished`: its `f`.
local function past(finished)
  local at, retention = string.match(finished or '', '^(%d+) %S+ (%d+)')
  return at and at + retention <= now
end
