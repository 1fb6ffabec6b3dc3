-- Makes a change, if the session is still what its writer knew. Answers 1 if it was made, and 0 if nothing was done.
--
-- ARGV: the session as its writer knew it, as JSON (empty: there is none), and the length of the list; the session
-- afterwards; what identifies this change; the time; in how many milliseconds the session expires (empty: when it did
-- before); how many of the last arguments are for starts; what identifies the writer, as in `claim.lua`; the head's
-- rows; JSON of what else there is to do (empty: nothing). Then score and member of each start, and the rows.

local expected, expected_length, session, change, now, lifetime, starts_count, writer, head, plan = unpack(ARGV, 1, 10)
local FIRST = 11
-- Milliseconds that the clock of Redis 7.0 may advance between two commands of a script; newer versions stop it.
local CLOCK = 5

local problem, found, length, starts = open('change', 'forgotten', 'claim')
if problem then return problem end
-- A client that sends a change again, because there was no answer, has made it already.
if found and found[4] == change then return 1 end
if (found and found[2] or '') ~= expected then return 0 end
local claim = found and found[6]
if claim and (holder_of(claim) or writer) ~= writer then return 0 end
if length ~= tonumber(expected_length) then return {'foreign'} end

-- The user must be allowed every command of the change. Redis 6 cannot tell.
if redis.acl_check_cmd then
  local commands = {
    {'HSET', SESSION, 'version', ''}, {'RPUSH', MESSAGES, ''}, {'ZADD', STARTS, '0', ''}, {'PEXPIRE', SESSION, '1'},
    {'LTRIM', MESSAGES, '0', '0'}, {'LINDEX', MESSAGES, '0'}, {'LSET', MESSAGES, '0', ''},
    {'ZRANGE', STARTS, '0', '0'}, {'ZREMRANGEBYRANK', STARTS, '0', '0'},
  }
  for number = 1, plan == '' and 4 or #commands do
    if not redis.acl_check_cmd(unpack(commands[number])) then
      local name, key = unpack(commands[number])
      return redis.error_reply('NOPERM this user may not call ' .. name .. ' on ' .. key)
    end
  end
end

-- In how many milliseconds each key expires; -1 for never. This is read before any change.
local lives = {}
if found and lifetime == '' then
  for number, key in ipairs(KEYS) do lives[number] = redis.call('PTTL', key) end
end

-- Returns how many members of `starts` are for positions before this one.
local function rank_of(position)
  local low, high = 0, redis.call('ZCARD', STARTS) - 1
  while low < high do
    local middle = math.floor((low + high) / 2)
    local member = redis.call('ZRANGE', STARTS, middle, middle)[1]
    if tonumber(string.sub(member, 1, 16)) - OFFSET < position then low = middle + 1 else high = middle end
  end
  return low
end

-- Removes the starts from the position `start` to the one before `stop`, or to the last one if `stop` is nil.
local function remove_starts(start, stop)
  local from, to = rank_of(start), stop and rank_of(stop) or redis.call('ZCARD', STARTS) - 1
  if from < to then starts = starts - redis.call('ZREMRANGEBYRANK', STARTS, from, to - 1) end
end

local fields = {'session', session, 'change', change, 'updated_at', now}
local function set(name, value)
  fields[#fields + 1] = name
  fields[#fields + 1] = value
end

if not found then
  redis.call('RPUSH', MESSAGES, '')
  starts = redis.call('ZADD', STARTS, '+inf', 'end')
  set('version', VERSION)
end
if plan ~= '' then
  plan = cjson.decode(plan)
  -- A command that takes memory is refused now or not at all; one that frees memory is never refused.
  if plan.grows then redis.call('HSET', SESSION, 'updated_at', now) else redis.call('LTRIM', MESSAGES, 0, -1) end
  local forgotten = found and tonumber(found[5])
  if plan.cut then -- from this position on; `kept` messages are before it
    redis.call('LTRIM', MESSAGES, 0, plan.kept)
    remove_starts(plan.cut)
    if forgotten and forgotten > plan.cut then set('forgotten', digits(plan.cut)) end
  end
  if plan.trims then -- this many of the oldest, all before the position `first`
    local trimmed = math.min(plan.trims, redis.call('LLEN', MESSAGES) - 1)
    if trimmed > 0 then
      redis.call('LTRIM', MESSAGES, trimmed, -1)
      redis.call('LSET', MESSAGES, 0, '')
    end
    remove_starts(0, plan.first)
  end
  if plan.forgets then -- the starts before this position
    remove_starts(0)
    set('forgotten', digits(plan.forgets))
  end
  if plan.has_head then
    remove_starts(-OFFSET, 0)
    set('head', head)
  end
  for _, settled in ipairs(plan.settled) do -- index, `before`, member
    local row = redis.call('LINDEX', MESSAGES, settled[1])
    local last = string.match(string.sub(row, -100), '(%z[^%z]*%z)$')
    local kind, tokens, question = string.match(last, '^%z(%d+) (%S+) %S* (%S*)%z$')
    local facts = kind .. ' ' .. tokens .. ' ' .. settled[2] .. ' ' .. question
    redis.call('LSET', MESSAGES, settled[1], string.sub(row, 1, -#last) .. facts .. '\0')
    starts = starts + redis.call('ZADD', STARTS, settled[2], settled[3])
  end
end

local rows_from = FIRST + starts_count
for from = rows_from, #ARGV, CHUNK do
  redis.call('RPUSH', MESSAGES, unpack(ARGV, from, math.min(from + CHUNK - 1, #ARGV)))
end
for from = FIRST, rows_from - 1, CHUNK do
  starts = starts + redis.call('ZADD', STARTS, unpack(ARGV, from, math.min(from + CHUNK - 1, rows_from - 1)))
end
set('starts', starts)
if claim and claim ~= '' then set('claim', '') end
redis.call('HSET', SESSION, unpack(fields))

-- All keys expire at the same time, set one right after the other. Not in 0 milliseconds, which removes a key.
local longest, differ = tonumber(lifetime), true
if not longest and found then
  longest = math.max(unpack(lives))
  differ = longest - math.min(unpack(lives)) > CLOCK
end
if longest and longest >= 0 and differ then
  for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, math.max(longest, 1)) end
end
return 1
