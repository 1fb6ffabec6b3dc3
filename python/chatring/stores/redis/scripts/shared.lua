-- This is in front of every script, behind `local VERSION`, the version of the layout as a string.
--
-- A session has three keys with one hash tag, so that they are in one slot of a cluster:
--
-- * `session`, a hash: `version`; `session`, JSON of the numbers and the name of `Session`; `starts`, how many members
--   that key has; `head`, the rows of the leading system messages; `forgotten`, the position before which no window may
--   begin any more, whatever the rows say; `change`, which differs after each change; `updated_at`, milliseconds since
--   1970; `claim`, the writer that others must wait for, and until when by the server's clock.
-- * `messages`, a list: an empty element, then a row for each message from the position `first` on: its body, a NUL,
--   then its kind, tokens, `before` and question (empty for none), and another NUL.
-- * `starts`, a sorted set with a member for each message that may begin a window. Its score is its `before`. The
--   member is its position (in 16 digits and 10^15 higher, so that equal scores are in the order of positions), a
--   space, and its question. The last member is `end`, with the highest score there is.
--
-- All three keys exist as long as the session does. So if a key is missing within a script, a cluster is moving its
-- slot and the key is on another server; the next command on it fails. No command fails after one that changed
-- something: types and permissions are checked first, and a server that is out of memory refuses only the first change.
--
-- Numbers are doubles here, exact to 2^53, which is twice the largest sum allowed.

local SESSION, MESSAGES, STARTS = KEYS[1], KEYS[2], KEYS[3]
local OFFSET = 1e15
-- Lua puts this many values on its stack at once; its limit is 8,000.
local CHUNK = 4000

local function digits(number) return string.format('%.0f', number) end

-- Returns these rows in parts of about 4,000 bytes, behind what comes before them. One string of all rows takes the
-- server twice as long to make; one for each row takes the client three times as long to read.
local function joined(front, rows)
  local parts, from, size = {front}, 1, 0
  for at, row in ipairs(rows) do
    size = size + #row
    if size >= 4000 then
      parts[#parts + 1] = table.concat(rows, '', from, at)
      from, size = at + 1, 0
    end
  end
  parts[#parts + 1] = table.concat(rows, '', from)
  return parts
end

-- Returns first the answer if the session cannot be used; then its fields `version`, `session`, `starts` and those
-- asked for, or nil if there is no session; then the length of the list and of the sorted set.
local function open(...)
  local found = redis.pcall('HMGET', SESSION, 'version', 'session', 'starts', ...)
  if found.err then
    if not string.find(found.err, 'WRONGTYPE', 1, true) then return found end
    -- Layout 1 had a string here, which MessagePack packed.
    local packed = redis.pcall('GET', SESSION)
    local is_packed, first = pcall(cmsgpack.unpack, packed)
    if type(packed) == 'string' and is_packed and type(first) == 'table' and first[1] == 1 then return {'version', '1'} end
    return {'foreign'}
  end
  local version = found[1]
  if version and version ~= VERSION then return string.find(version, '^%d+$') and {'version', version} or {'foreign'} end
  local length, starts = redis.call('LLEN', MESSAGES), redis.call('ZCARD', STARTS)
  if not version then
    if length > 0 or starts > 0 or redis.call('EXISTS', SESSION) > 0 then return {'foreign'} end
    return nil, nil, 0, 0
  end
  -- A part may have been evicted.
  if not found[2] or length == 0 or tonumber(found[3]) ~= starts then return {'foreign'} end
  return nil, found, length, starts
end

-- Returns the numbers of a session, and whether it has as many messages as the list says.
local function numbers_of(session, length)
  local is_json, numbers = pcall(cjson.decode, session)
  if not is_json or type(numbers) ~= 'table' or #numbers ~= 18 then return nil, false end
  return numbers, type(numbers[8]) == 'number' and type(numbers[4]) == 'number' and length == numbers[8] - numbers[4] + 1
end

local function milliseconds()
  local seconds, microseconds = unpack(redis.call('TIME'))
  return seconds * 1000 + math.floor(microseconds / 1000)
end

-- Returns the writer that others must wait for; nil if there is none.
local function holder_of(claim)
  local till, holder = string.match(claim or '', '^(%d+) (%S+)$')
  return till and tonumber(till) > milliseconds() and holder or nil
end
