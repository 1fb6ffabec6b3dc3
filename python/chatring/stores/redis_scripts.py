"""What `RedisStore` has the server do: each change, and each read, is one of these scripts, in Lua.

A session has three keys with the same hash tag, so that they are in one slot of a cluster:

- `session`, a string: MessagePack of the layout's version, the counter's name, and where the ledger stands: `length`,
  `total`, `reach`, `blank_tail` and `closed` as in `sql_schema`, the number of `starts`, and a stamp that every change
  makes another one;
- `records`, a list: one value a record, see `redis_layout`. A window is a range at its end, where a list is quick;
- `starts`, a sorted set: the place of each legal start, with its `before` as the score. Of starts that do not exceed
  every earlier `before` there is none, so the order of the scores is that of the places, without ties.

The server runs one script at a time. No command fails after one that changed something:

- types are looked at first, and what the user may do (unless the server is Redis 6, which cannot tell);
- a server that is out of memory refuses only the first change;
- no key goes away before the last command on it. While a cluster moves a slot, the server takes a key that it does not
  have for one that it has moved, and fails the next command on it. It runs a script only if it has all three keys, so
  what is there at first is safe to use as long as it stays.

All keys that a change leaves expire at the same time, the latest of those there were, or never.
"""

from __future__ import annotations

import hashlib

# Raised by every change of the layout. A store refuses sessions of a higher version than its own.
VERSION = 1

# The most tokens of a session, and of a change: scores and Lua's numbers are doubles, exact to 2**53. A start's
# `before` is no further from a sum than a text's tokens, which are at most 2**40.
MOST_TOKENS = 2**52


class Script:
    """A script, as the server knows it.

    Args:
        body: what it does, after what all scripts share. The server's answer is 1, or a list that begins with a word:
            `ok`, or why nothing was done.
        changes: whether it changes anything, so that it must not be sent twice.
    """

    def __init__(self, body: str, *, changes: bool) -> None:
        self.source = _NUMBERS + _SHARED + body
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()
        self.changes = changes


_NUMBERS = f"local VERSION, MOST_TOKENS = {VERSION}, {MOST_TOKENS}\n"
_SHARED = """
local SESSION, RECORDS, STARTS = KEYS[1], KEYS[2], KEYS[3]
-- Lua puts so many values on its stack at once; its limit is 8,000.
local CHUNK = 4000
-- Milliseconds that the clock of Redis 7.0 may go on between one command of a script and the next; newer ones stop it.
local CLOCK = 5

-- Returns the number of rows from a place on, and these as one string: the client reads it in half the time that it
-- takes for a list.
local function range(first)
  local rows = redis.call('LRANGE', RECORDS, first, -1)
  return #rows, table.concat(rows)
end

local function digits(number) return string.format('%.0f', number) end

-- A session is a list, as it is stored; these are the places in it.
local COUNTER, LENGTH, TOTAL, REACH, KNOWN, BLANK_TAIL, CLOSED, STAMP = 2, 3, 4, 5, 6, 7, 8, 9

local function new() return {VERSION, '', 0, 0, false, 0, 0, true, 'none'} end

-- What may be called with these keys, for `open`.
local SET, PEXPIRE = {'SET', SESSION, '', 'KEEPTTL'}, {'PEXPIRE', SESSION, '1'}
local RPUSH, LTRIM = {'RPUSH', RECORDS, ''}, {'LTRIM', RECORDS, '0', '0'}
local LSET, LREM = {'LSET', RECORDS, '0', ''}, {'LREM', RECORDS, '0', ''}
local ZADD, ZREMRANGEBYRANK = {'ZADD', STARTS, '0', '0'}, {'ZREMRANGEBYRANK', STARTS, '0', '0'}

-- Returns the session, or nil and what to answer; and whether there is none yet. Its arguments are what will be called,
-- which the user must be allowed as a whole.
local function open(...)
  local packed, length, known = redis.call('GET', SESSION), redis.call('LLEN', RECORDS), redis.call('ZCARD', STARTS)
  local is_ours, session = true, nil
  if packed then is_ours, session = pcall(cmsgpack.unpack, packed) else session = new() end
  if not is_ours or type(session) ~= 'table' or type(session[1]) ~= 'number' then return nil, {'foreign'} end
  if session[1] > VERSION then return nil, {'version', digits(session[1])} end
  -- A part may have been evicted.
  if #session ~= 9 or session[LENGTH] ~= length or session[KNOWN] ~= known then return nil, {'foreign'} end
  for _, command in ipairs({...}) do
    if redis.acl_check_cmd and not redis.acl_check_cmd(unpack(command)) then
      return nil, redis.error_reply('NOPERM this user may not call ' .. command[1] .. ' on ' .. command[2])
    end
  end
  return session, nil, not packed
end

-- Returns in how many milliseconds each key expires: -1 for never, -2 if there is none. To be asked before any change.
local function ask_lifetimes()
  return {redis.call('PTTL', SESSION), redis.call('PTTL', RECORDS), redis.call('PTTL', STARTS)}
end

local function save(session, counter, stamp, lifetimes)
  session[COUNTER], session[STAMP] = counter, stamp
  redis.call('SET', SESSION, cmsgpack.pack(session), 'KEEPTTL')
  local longest = math.max(unpack(lifetimes))
  if longest < 0 then return end
  local left, differ = {}, false
  for place, is_left in ipairs({true, session[LENGTH] > 0, session[KNOWN] > 0}) do
    if is_left then left[#left + 1] = KEYS[place] end
    differ = differ or is_left and longest - lifetimes[place] > CLOCK
  end
  if not differ then return end
  -- All of them, one right after the other. Not 0, which removes a key.
  for _, key in ipairs(left) do redis.call('PEXPIRE', key, math.max(longest, 1)) end
end

-- Removes the starts from a rank on, and puts one behind those that stay, so that the key does.
local function cut_starts(session, rank)
  session[KNOWN], session[REACH] = rank, false
  if rank > 0 then session[REACH] = tonumber(redis.call('ZRANGE', STARTS, rank - 1, rank - 1, 'WITHSCORES')[2]) end
  -- In two steps, as a server without memory does not refuse a script that begins with the first.
  redis.call('ZREMRANGEBYRANK', STARTS, math.max(rank, 1), -1)
  redis.call('ZADD', STARTS, '+inf', 'end')
  redis.call('ZREMRANGEBYRANK', STARTS, rank, -2)
end

-- Removes the one that `cut_starts` put there.
local function end_starts() redis.call('ZREMRANGEBYRANK', STARTS, -1, -1) end

-- Counts in what `count` rows add after the session's first `length` ones.
local function count_in(session, added, count)
  local tokens, blank_tail, closed, starts = unpack(added)
  local scores = {}
  for at = 1, #starts, 2 do
    local before = session[TOTAL] + starts[at + 1]
    if not session[REACH] or before > session[REACH] then
      session[REACH] = before
      scores[#scores + 1] = digits(before)
      scores[#scores + 1] = digits(session[LENGTH] + starts[at])
    end
    if #scores >= CHUNK or at + 2 > #starts and #scores > 0 then
      session[KNOWN] = session[KNOWN] + redis.call('ZADD', STARTS, unpack(scores))
      scores = {}
    end
  end
  session[LENGTH], session[TOTAL] = session[LENGTH] + count, session[TOTAL] + tokens
  session[BLANK_TAIL], session[CLOSED] = blank_tail, closed
end

-- Adds the arguments after the first to the end of a session, as its rows.
local function extend(session, added)
  for from = 2, #ARGV, CHUNK do
    redis.call('RPUSH', RECORDS, unpack(ARGV, from, math.min(from + CHUNK - 1, #ARGV)))
  end
  count_in(session, added, #ARGV - 1)
end
"""

APPEND = Script(
    """
local counter, measured_for, suits_word, suits_empty, stamp, added = unpack(cjson.decode(ARGV[1]))
local session, problem, is_new = open(RPUSH, ZADD, SET, PEXPIRE)
if problem then return problem end
if not is_new and session[COUNTER] ~= counter then return {'counter', session[COUNTER]} end
local suits
if session[LENGTH] == 0 then suits = suits_empty else suits = suits_word and session[CLOSED] end
if not suits and session[STAMP] ~= measured_for then
  local first = math.max(session[LENGTH] - session[BLANK_TAIL] - 1, 0)
  return {'tail', session[STAMP], first, range(first - session[LENGTH])}
end
if math.abs(session[TOTAL] + added[1]) > MOST_TOKENS then return {'tokens'} end
local lifetimes = ask_lifetimes()
extend(session, added)
save(session, counter, stamp, lifetimes)
return 1
""",
    changes=True,
)
"""Appends rows: JSON of the counter, stamp of the session they were measured for (empty if for no certain one), whether
they add the same after any word, and whether to an empty session, new stamp, and what they add; rows. If they must be
measured for this session, it answers with `tail`: its stamp, the place of its last record that is not blank, the number
of rows from there on, and these."""

REPLACE = Script(
    """
local counter, stamp, added = unpack(cjson.decode(ARGV[1]))
local _, problem = open(RPUSH, LTRIM, ZREMRANGEBYRANK, ZADD, SET, PEXPIRE)
if problem then return problem end
local session, lifetimes = new(), ask_lifetimes()
-- First a command that is refused when memory is full. An empty row keeps the place of those that come.
redis.call('RPUSH', RECORDS, '')
redis.call('LTRIM', RECORDS, -1, -1)
cut_starts(session, 0)
extend(session, added)
redis.call('LTRIM', RECORDS, 1, -1)
end_starts()
save(session, counter, stamp, lifetimes)
return 1
""",
    changes=True,
)
"""Puts rows in the place of all: JSON of the counter, new stamp, and what they add; rows."""

WINDOW = Script(
    """
local counter, allowance = unpack(ARGV)
local session, problem, is_new = open()
if problem then return problem end
if not is_new and session[COUNTER] ~= counter then return {'counter', session[COUNTER]} end
local length, blank_tail = session[LENGTH], session[BLANK_TAIL]
if length == 0 then return {'ok', 0, 0, 0, ''} end
local found = redis.call('ZRANGEBYSCORE', STARTS, digits(session[TOTAL] - tonumber(allowance)), '+inf', 'LIMIT', 0, 1)
local first = tonumber(found[1]) or length - math.max(blank_tail, 1)
local is_open = not found[1] and blank_tail > 0
return {'ok', first, is_open and 1 or 0, range(first - length)}
""",
    changes=False,
)
"""Answers with the place of a window's first row, whether it is only known to be among the blank ones at the end (then
all of these follow), the number of rows, and these: counter, allowance."""

READ = Script(
    """
local session, problem = open()
if problem then return problem end
return {'ok', session[STAMP], session[COUNTER], session[LENGTH], session[TOTAL],
        redis.call('ZSCORE', STARTS, '0') or ''}
""",
    changes=False,
)
"""Answers with the session's stamp, counter, length, total, and `before` of its first record."""

RECOUNT = Script(
    """
local counter, expected, stamp, added, place, is_removed, total, blank_tail = unpack(cjson.decode(ARGV[1]))
local session, problem = open(ZREMRANGEBYRANK, LSET, LREM, ZADD, SET, PEXPIRE)
if problem then return problem end
if session[STAMP] ~= expected then return {'changed'} end
local length = session[LENGTH]
-- The first word after the blank records before `place` may be another one, and with it what is known of them.
local low, high = 0, session[KNOWN]
while low < high do
  local middle = math.floor((low + high) / 2)
  if tonumber(redis.call('ZRANGE', STARTS, middle, middle)[1]) < place - blank_tail then low = middle + 1
  else high = middle end
end
local lifetimes = ask_lifetimes()
cut_starts(session, low)
if is_removed then
  -- A list removes by value. No row is empty.
  redis.call('LSET', RECORDS, place - length, '')
  redis.call('LREM', RECORDS, place < length / 2 and 1 or -1, '')
  length = length - 1
end
session[LENGTH], session[TOTAL] = place, total
count_in(session, added, length - place)
end_starts()
save(session, counter, stamp, lifetimes)
return 1
""",
    changes=True,
)
"""Counts the last rows anew: JSON of the counter, stamp of the session they were measured for, new stamp, what they
add, and of what comes before them: its length, whether the row after it is removed, its total and blank tail. If the
session is another one by now, it answers with `changed`."""

DELETE = Script(
    """
local _, problem, is_new = open()
if problem then return problem end
redis.call('DEL', SESSION, RECORDS, STARTS)
return {'ok', is_new and 0 or 1}
""",
    changes=True,
)
"""Removes a session, and answers with whether there was one."""
