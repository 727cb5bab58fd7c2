#!lua flags=allow-oom
-- Pauses or resumes handing out.
--
-- KEYS     the fixed keys of the queue; used: m w
-- ARGV     prefix, 1 pause or 0 resume, number of the request
-- RETURNS  {applied, number of the last request that was applied}
-- KEEPS    a late pause never undoes a later resume, nor the other way round
-- AGAIN    not applied
--@include head
--@include effects
local number = tonumber(ARGV[3])
local last = tonumber(call('HGET', META, 'pn') or 0)
if number <= last then return { 0, last } end
call('HSET', META, 'pn', ms(number))
if ARGV[2] == '1' then
  call('HSET', META, 'pa', '1')
else
  call('HDEL', META, 'pa')
  startable = true
end
conclude()
return { 1, number }
