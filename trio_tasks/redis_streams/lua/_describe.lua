-- A job as calls/looking.py expects it: {id, state letter, deliveries, started (ms, -1: it does not
-- run), {field, value …}, {log line …}}; false: it is gone, or past its retention.
--@include past
local function describe(id, with_log)
  local flat = redis.pcall('HGETALL', JOB .. id)
  local job = {}
  for i = 1, #flat, 2 do job[flat[i]] = flat[i + 1] end
  if not job.s then return false end
  if past(job.f) then return false end
  local letter, deliveries, started = job.s, 0, -1
  if letter == 'q' then
    local rows = redis.pcall('XPENDING', STREAM .. job.p, 'g', job.e, job.e, 1)
    local row = rows[1] -- an error has none
    if row and row[2] ~= RELEASED then letter, deliveries, started = 'r', row[4], now - row[3] end
  end
  local log = with_log and redis.pcall('LRANGE', LOG .. id, 0, -1) or {}
  return { id, letter, deliveries, started, flat, log.err and {} or log }
end
