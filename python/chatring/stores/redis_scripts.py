"""What `RedisStore` has the server do: each change, and each read, is one of these scripts, in Lua.

A session has three keys with the same hash tag, so that they are in one slot of a cluster:

- `session`, a hash: the layout's version, the counter's name, and where the ledger stands (see `RedisStore`);
- `records`, a list: one value a record, see `redis_layout`. A window is a range at its end, where a list is quick;
- `starts`, a sorted set: the place of each legal start, with its `before` as the score. Of starts that do not exceed
  every earlier `before` there is none, so the order of the scores is that of the places, without ties.

The server runs one script at a time. A script that fails at its first command has changed nothing, and no later command
can fail: types are looked at first, and a server that is out of memory refuses only the first write.
"""

from __future__ import annotations

import hashlib

# Raised by every change of the layout. A store refuses sessions of a higher version than its own.
VERSION = 1

# The most tokens of a session, and the largest number of a change: scores and Lua's numbers are doubles, exact to 2**53.
MOST_TOKENS = 2**52


class Script:
    """A script, as the server knows it.

    Args:
        body: what it does, after what all scripts share. The server's answer is a list that begins with a word: `ok`,
            or why nothing was done.
        changes: whether it changes anything, so that it must not be sent twice.
    """

    def __init__(self, body: str, *, changes: bool) -> None:
        self.source = _SHARED + body
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()
        self.changes = changes


_SHARED = (
    f"""
local VERSION, MOST_TOKENS = {VERSION}, {MOST_TOKENS}
"""
    + """
local SESSION, RECORDS, STARTS = KEYS[1], KEYS[2], KEYS[3]
-- Lua puts so many values on its stack at once; its limit is 8,000.
local CHUNK = 4000

local function digits(number) return string.format('%.0f', number) end

-- Returns the session, or nil and what to answer.
local function open()
  local fields = redis.call('HMGET', SESSION, 'version', 'counter', 'length', 'total', 'reach', 'blank_tail', 'closed',
                            'stamp')
  local version, counter, stamp = fields[1], fields[2], fields[8]
  local length, known = redis.call('LLEN', RECORDS), redis.call('ZCARD', STARTS)
  if not version then
    if length + known + redis.call('EXISTS', SESSION) > 0 then return nil, {'foreign'} end
    return {is_new = true, length = 0, total = 0, blank_tail = 0, closed = true, stamp = '-'}
  end
  if not tonumber(version) then return nil, {'foreign'} end
  if tonumber(version) > VERSION then return nil, {'version', version} end
  local session = {
    counter = counter, length = tonumber(fields[3]), total = tonumber(fields[4]), reach = tonumber(fields[5]),
    blank_tail = tonumber(fields[6]), closed = fields[7] == '1', stamp = stamp,
  }
  -- A part may have been evicted.
  if not (counter and stamp and session.total and session.blank_tail) or session.length ~= length
      or (session.reach ~= nil) ~= (known > 0) then
    return nil, {'foreign'}
  end
  return session
end

local function save(session, counter, stamp)
  redis.call('HSET', SESSION, 'version', VERSION, 'counter', counter, 'length', digits(session.length),
             'total', digits(session.total), 'reach', session.reach and digits(session.reach) or '',
             'blank_tail', digits(session.blank_tail), 'closed', session.closed and '1' or '0', 'stamp', stamp)
end

-- Adds rows[first], and those after it, to the end of a session; `added` is what they add, as JSON.
local function extend(session, added, rows, first)
  local tokens, blank_tail, closed, starts = unpack(cjson.decode(added))
  for from = first, #rows, CHUNK do
    redis.call('RPUSH', RECORDS, unpack(rows, from, math.min(from + CHUNK - 1, #rows)))
  end
  local scores = {}
  for _, start in ipairs(starts) do
    local before = session.total + start[2]
    if not session.reach or before > session.reach then
      session.reach = before
      scores[#scores + 1] = digits(before)
      scores[#scores + 1] = digits(session.length + start[1])
      if #scores >= CHUNK then
        redis.call('ZADD', STARTS, unpack(scores))
        scores = {}
      end
    end
  end
  if #scores > 0 then redis.call('ZADD', STARTS, unpack(scores)) end
  session.length = session.length + #rows - first + 1
  session.total = session.total + tokens
  session.blank_tail, session.closed = blank_tail, closed
end
"""
)

APPEND = Script(
    """
-- Of the stamp it is enough that it is another one after every change.
local counter, expected, stamp, added, suits_first = unpack(ARGV, 1, 5)
local session, problem = open()
if problem then return problem end
if not session.is_new and session.counter ~= counter then return {'counter', session.counter} end
local is_measured = session.closed
if expected ~= '' then is_measured = session.stamp == expected
elseif session.length == 0 then is_measured = suits_first == '1' end
if not is_measured then
  local first = math.max(session.length - session.blank_tail - 1, 0)
  return {'tail', session.stamp, first, redis.call('LRANGE', RECORDS, first - session.length, -1)}
end
if math.abs(session.total + cjson.decode(added)[1]) > MOST_TOKENS then return {'tokens'} end
extend(session, added, ARGV, 6)
save(session, counter, stamp)
return {'ok'}
""",
    changes=True,
)
"""Appends rows: counter, stamp of the session they were measured for or '', new stamp, what they add, whether that suits
an empty session, rows. If they must be measured again, it answers with `tail`: the stamp, the place of the last record
that is not blank, and the rows from there on."""

REPLACE = Script(
    """
local counter, stamp, added = unpack(ARGV, 1, 3)
local _, problem = open()
if problem then return problem end
-- First a command that is refused when memory is full, as DEL is not.
redis.call('HSET', SESSION, 'stamp', stamp)
redis.call('DEL', RECORDS, STARTS)
local session = {length = 0, total = 0}
extend(session, added, ARGV, 4)
save(session, counter, stamp)
return {'ok'}
""",
    changes=True,
)
"""Puts rows in the place of all: counter, new stamp, what they add, rows."""

WINDOW = Script(
    """
local counter, allowance = unpack(ARGV)
local session, problem = open()
if problem then return problem end
if session.length == 0 then return {'ok', 0, 0, {}} end
if session.counter ~= counter then return {'counter', session.counter} end
local found = redis.call('ZRANGEBYSCORE', STARTS, digits(session.total - tonumber(allowance)), '+inf', 'LIMIT', 0, 1)
local first = tonumber(found[1]) or session.length - math.max(session.blank_tail, 1)
local is_open = not found[1] and session.blank_tail > 0
return {'ok', first, is_open and 1 or 0, redis.call('LRANGE', RECORDS, first - session.length, -1)}
""",
    changes=False,
)
"""Answers with the place of a window's first row, whether it is only known to be among the blank ones at the end (then
all of these follow), and the rows: counter, allowance."""

READ = Script(
    """
local first = ARGV[1]
local session, problem = open()
if problem then return problem end
local rows = first ~= '' and redis.call('LRANGE', RECORDS, first, -1) or {}
local before = redis.call('ZSCORE', STARTS, '0') or ''
return {'ok', session.stamp, session.counter or '', session.length, session.total, before, rows}
""",
    changes=False,
)
"""Answers with the session's stamp, counter, length, total, `before` of its first record, and its rows from a place on:
that place, negative from the end, or '' for no rows."""

RECOUNT = Script(
    """
local counter, expected, stamp, cut, added, steps = unpack(ARGV)
local session, problem = open()
if problem then return problem end
if session.stamp ~= expected then return {'changed'} end
local place, dropped, total, blank_tail = unpack(cjson.decode(cut))
local rest = place + dropped - session.length
local rows = rest < 0 and redis.call('LRANGE', RECORDS, rest, -1) or {}
for at = 1, #rows do rows[at] = string.sub(steps, 8 * at - 7, 8 * at) .. string.sub(rows[at], 9) end
if place == 0 then
  redis.call('DEL', RECORDS, STARTS)
  session.reach = nil
else
  redis.call('LTRIM', RECORDS, 0, place - 1)
  repeat
    -- The first word after the blank records that now are the last is gone, and with it what was known of them.
    local last = redis.call('ZREVRANGE', STARTS, 0, 0, 'WITHSCORES')
    session.reach = tonumber(last[2])
    local stays = not last[1] or tonumber(last[1]) < place - blank_tail
    if not stays then redis.call('ZREMRANGEBYRANK', STARTS, -1, -1) end
  until stays
end
session.length, session.total = place, total
extend(session, added, rows, 1)
save(session, counter, stamp)
return {'ok'}
""",
    changes=True,
)
"""Drops rows and counts those after them anew: counter, stamp of the session they were measured for, new stamp, what is
left before them (JSON: its length, rows dropped then, its total and blank tail), what the others add, their steps. If the
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
