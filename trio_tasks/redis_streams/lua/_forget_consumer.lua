-- Deletes a consumer that is out of `c` wherever it owns nothing; whether it owns something yet.
local function forget_consumer(name)
  local owns = false
  for level = 0, 9 do
    local rows = redis.pcall('XPENDING', STREAM .. level, 'g', '-', '+', 1, name)
    if rows[1] then
      owns = true
    elseif not rows.err then
      call('XGROUP', 'DELCONSUMER', STREAM .. level, 'g', name)
    end
  end
  return owns
end
