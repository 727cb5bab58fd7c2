-- How a job ends, and whom an emit number belongs to. Needs ARGV[2]: see `_lifetime`.
--@include effects
--@include legal
--@include lifetime

-- The emit number that began this life; '-': a minted id.
local function maker(numbers)
  return numbers and string.match(string.match(numbers, '^[^|]*'), '%S+$') or '-'
end

-- This life of a job, as debounce keys name it.
local function life(id, numbers) return id .. ' ' .. maker(numbers) .. ' ' end

local function has_word(words, word)
  return string.find(' ' .. words .. ' ', ' ' .. word .. ' ', 1, true)
end

local function starts_with(text, head) return string.sub(text, 1, #head) == head end

-- What a debounce key says; nothing if that is none of our values.
local function holder_of(digest)
  local holder = redis.pcall('GET', DEBOUNCE .. digest)
  if type(holder) == 'string' and string.find(holder, '^%S+ %S+ %d+$') then return holder end
end

-- Releases a leading debounce key that this life of a job holds.
local function reopen(digest, id)
  local holder = holder_of(digest)
  if holder and starts_with(holder, life(id, call('HGET', JOB .. id, 'n'))) then
    call('DEL', DEBOUNCE .. digest)
  end
end

-- Ends a job that does not run: skipped ('s') or cancelled ('x').
local function end_idle(id, letter, why, by, retention)
  local finished = NOW .. ' - ' .. ms(retention) .. ' - -'
  call('HSET', JOB .. id, 's', letter, 'f', finished, 'why', why)
  if by then call('HSET', JOB .. id, 'by', by) end
  call('PEXPIRE', LOG .. id, expire(id, retention))
  count(letter)
  tell(id)
end
