"""What `RedisStore` has the server do: each change, and each read, is one of these scripts, in Lua.

A session has three keys with the same hash tag, so that they are in one slot of a cluster:

- `session`, a string: MessagePack of the layout's version, the counter's name, and where the ledger stands: `length`,
  `total`, `reach`, `blank_tail` and `closed` as in `sql_schema`, the number of `starts`, and a stamp that every change
  makes another one;
- `records`, a list: one value a record, see `redis_layout`. A window is a range at its end, where a list is quick;
- `starts`, a sorted set: the place of each legal start, with its `before` as the score. Of starts that do not exceed
  every earlier `before` there is none, so the order of the scores is that of the places, without ties.

The server runs one script at a time. No command fails after one that changed something: types
are looked at first, and a server that is out of memory refuses only the first change.
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
        body: what it does, after what all scripts share. The server's answer is a list that begins with a word: `ok`,
            or why nothing was done.
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

-- Returns rows from a place on, as one string: the client reads it in half the time that it takes for a list.
local function range(first) return table.concat(redis.call('LRANGE', RECORDS, first, -1)) end

local function digits(number) return string.format('%.0f', number) end

-- Returns the session, or nil and what to answer.
local function open()
  local packed, length, known = redis.call('GET', SESSION), redis.call('LLEN', RECORDS), redis.call('ZCARD', STARTS)
  local session
  if packed then
    local is_ours, fields = pcall(cmsgpack.unpack, packed)
    is_ours = is_ours and type(fields) == 'table' and type(fields[1]) == 'number'
    if is_ours and fields[1] > VERSION then return nil, {'version', digits(fields[1])} end
    if not is_ours or #fields ~= 9 then return nil, {'foreign'} end
    session = {
      counter = fields[2], length = fields[3], total = fields[4], reach = fields[5], known = fields[6],
      blank_tail = fields[7], closed = fields[8], stamp = fields[9],
    }
  else
    session = {is_new = true, length = 0, total = 0, known = 0, blank_tail = 0, closed = true, stamp = 'none'}
  end
  -- A part may have been evicted.
  if session.length ~= length or session.known ~= known then return nil, {'foreign'} end
  return session
end

local function save(session, counter, stamp)
  redis.call('SET', SESSION, cmsgpack.pack({
    VERSION, counter, session.length, session.total, session.reach or false, session.known, session.blank_tail,
    session.closed, stamp,
  }))
end

-- Counts in what `count` rows add after the session's first `length` ones.
local function count_in(session, added, count)
  local tokens, blank_tail, closed, starts = unpack(added)
  local scores = {}
  for at = 1, #starts, 2 do
    local before = session.total + starts[at + 1]
    if not session.reach or before > session.reach then
      session.reach = before
      scores[#scores + 1] = digits(before)
      scores[#scores + 1] = digits(session.length + starts[at])
    end
    if #scores >= CHUNK or at + 2 > #starts and #scores > 0 then
      session.known = session.known + redis.call('ZADD', STARTS, unpack(scores))
      scores = {}
    end
  end
  session.length, session.total = session.length + count, session.total + tokens
  session.blank_tail, session.closed = blank_tail, closed
end

-- Adds the arguments from `first` on to the end of a session, as its rows.
local function extend(session, added, first)
  for from = first, #ARGV, CHUNK do
    redis.call('RPUSH', RECORDS, unpack(ARGV, from, math.min(from + CHUNK - 1, #ARGV)))
  end
  count_in(session, added, #ARGV - first + 1)
end
"""

APPEND = Script(
    """
local counter, expected, stamp, added = unpack(cjson.decode(ARGV[1]))
local session, problem = open()
if problem then return problem end
if not session.is_new and session.counter ~= counter then return {'counter', session.counter} end
local is_measured
if #expected > 1 then is_measured = session.stamp == expected
elseif session.length == 0 then is_measured = expected == '1'
else is_measured = session.closed end
if not is_measured then
  local first = math.max(session.length - session.blank_tail - 1, 0)
  return {'tail', session.stamp, first, range(first - session.length)}
end
if math.abs(session.total + added[1]) > MOST_TOKENS then return {'tokens'} end
extend(session, added, 2)
save(session, counter, stamp)
return {'ok'}
""",
    changes=True,
)
"""Appends rows: JSON of the counter, stamp of the session they were measured for, new stamp and what they add; rows. In
the place of the first stamp: 1 if they were measured as what follows a word and would add the same to an empty session,
0 if they would not. If they must be measured again, it answers with `tail`: the stamp, the place of the last record
that is not blank, and the rows from there on."""

REPLACE = Script(
    """
local counter, stamp, added = unpack(cjson.decode(ARGV[1]))
local _, problem = open()
if problem then return problem end
-- First a command that is refused when memory is full, as DEL is not.
local session = {length = 0, total = 0, known = 0, blank_tail = 0, closed = true}
save(session, counter, stamp)
redis.call('DEL', RECORDS, STARTS)
extend(session, added, 2)
save(session, counter, stamp)
return {'ok'}
""",
    changes=True,
)
"""Puts rows in the place of all: JSON of the counter, new stamp, and what they add; rows."""

WINDOW = Script(
    """
local counter, allowance = unpack(ARGV)
local session, problem = open()
if problem then return problem end
if session.length == 0 then return {'ok', 0, 0, ''} end
if session.counter ~= counter then return {'counter', session.counter} end
local found = redis.call('ZRANGEBYSCORE', STARTS, digits(session.total - tonumber(allowance)), '+inf', 'LIMIT', 0, 1)
local first = tonumber(found[1]) or session.length - math.max(session.blank_tail, 1)
local is_open = not found[1] and session.blank_tail > 0
return {'ok', first, is_open and 1 or 0, range(first - session.length)}
""",
    changes=False,
)
"""Answers with the place of a window's first row, whether it is only known to be among the blank ones at the end (then
all of these follow), and the rows: counter, allowance."""

READ = Script(
    """
local session, problem = open()
if problem then return problem end
return {'ok', session.stamp, session.counter or '', session.length, session.total,
        redis.call('ZSCORE', STARTS, '0') or ''}
""",
    changes=False,
)
"""Answers with the session's stamp, counter, length, total, and `before` of its first record."""

RECOUNT = Script(
    """
local counter, expected, stamp, added, place, is_removed, total, blank_tail = unpack(cjson.decode(ARGV[1]))
local session, problem = open()
if problem then return problem end
if session.stamp ~= expected then return {'changed'} end
-- The first word after the blank records before `place` may be another one, and with it what is known of them.
local low, high = 0, redis.call('ZCARD', STARTS)
while low < high do
  local middle = math.floor((low + high) / 2)
  if tonumber(redis.call('ZRANGE', STARTS, middle, middle)[1]) < place - blank_tail then low = middle + 1
  else high = middle end
end
-- The first change is one that a server without memory does not refuse.
redis.call('ZREMRANGEBYRANK', STARTS, low, -1)
session.known = low
session.reach = tonumber(redis.call('ZRANGE', STARTS, -1, -1, 'WITHSCORES')[2])
if is_removed then
  -- A list removes by value. No row is empty.
  redis.call('LSET', RECORDS, place - session.length, '')
  redis.call('LREM', RECORDS, place < session.length / 2 and 1 or -1, '')
  session.length = session.length - 1
end
local count = session.length - place
session.length, session.total = place, total
count_in(session, added, count)
save(session, counter, stamp)
return {'ok'}
""",
    changes=True,
)
"""Counts the last rows anew: JSON of the counter, stamp of the session they were measured for, new stamp, what they
add, and of what comes before them: its length, whether the row after it is removed, its total and blank tail. If the
session is another one by now, it answers with `changed`."""

DELETE = Script(
    """
local session, problem = open()
if problem then return problem end
redis.call('DEL', SESSION, RECORDS, STARTS)
return {'ok', session.is_new and 0 or 1}
""",
    changes=True,
)
"""Removes a session, and answers with whether there was one."""
