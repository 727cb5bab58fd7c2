-- How long a job that has ended is kept. Needs ARGV[2]: lifetime of tombstones, ms.
local TOMBSTONE = tonumber(ARGV[2])
-- A child that may be relayed once more must find its id taken: 1 h where a tombstone has 10 min.
local RELAYED = 6 * TOMBSTONE
local relays

-- Whether jobs ever came to this queue from others: only then a job has to be asked.
local function has_relayed()
  if relays == nil then relays = call('HGET', META, 'rl') end
  return relays
end

-- The TTL of all jobs with this retention; nil where a job has to be looked at (`expire`).
local function plain_lifetime(retention)
  local lifetime = retention + TOMBSTONE
  return retention > 0 and (lifetime >= RELAYED or not has_relayed()) and ms(lifetime) or nil
end

-- The one TTL of an ended job: retention, then the tombstone.
local function expire(id, retention)
  local lifetime = retention + TOMBSTONE
  if lifetime < RELAYED and has_relayed() and call('HEXISTS', JOB .. id, 'rl') == 1 then
    lifetime = RELAYED
  end
  call('PEXPIRE', JOB .. id, ms(lifetime))
  if retention == 0 then call('HDEL', JOB .. id, 'b', 'er') end
  return ms(lifetime)
end
