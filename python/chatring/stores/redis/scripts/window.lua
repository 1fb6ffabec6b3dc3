-- Answers with a window: the session as JSON, the position of its first message behind head and question (empty if not
-- even the head fits), the position of the question (empty if none is carried), its tokens, and its rows in parts.
--
-- ARGV: the most tokens; whether the head is in the window; whether the window falls back to the last message instead
-- of the newest start; JSON of the blocks in which messages are left out: for each, the smallest allowance that it is
-- for, and its size.
--
-- `sql/sqlite.sql` has the same as a query.

local room, with_head, falls_to_last = tonumber(ARGV[1]), ARGV[2] == '1', ARGV[3] == '1'
local problem, found, length = open('head', 'forgotten')
if problem then return problem end
if not found then return {'none'} end
local numbers, is_whole = numbers_of(found[2], length)
if not is_whole then return {'foreign'} end
local head, head_tokens, first, base, lead, lead_total, finish, total =
  numbers[1], numbers[2], numbers[4], numbers[5], numbers[6], numbers[7], numbers[8], numbers[9]
local heads = found[4] or ''

-- Returns the last `count` of the head's rows.
local function last_of_head(count)
  local rows = {}
  for row in string.gmatch(heads, '[^%z]*%z[^%z]*%z') do rows[#rows + 1] = row end
  return table.concat(rows, '', math.max(#rows - count, 0) + 1)
end

-- Returns what a row says about its message: tokens, `before`, question.
local function facts_of(row, position)
  local tokens, before, question = string.match(string.sub(row, -100), '%z%d+ (%S+) (%S*) (%S*)%z$')
  if position >= 0 and position < tonumber(found[5] or 0) then before, question = nil, nil end
  return tonumber(tokens), tonumber(before), tonumber(question)
end

local inside, outside = 0, head_tokens
if with_head then inside, outside = head_tokens, 0 end
if inside > room then return {'ok', found[2], '', '', '-1', {}} end

local start, question, tokens
local excess = total + outside - (room - inside)
if excess <= 0 then
  start, tokens = lead, head_tokens + total - lead_total
  if head > 0 and not with_head then start, tokens = -head, head_tokens + total - base end
else
  local blocks, block = cjson.decode(ARGV[4]), 1
  for at = 1, #blocks, 2 do
    if blocks[at] <= room - inside then block = math.max(block, blocks[at + 1]) end
  end
  local up = excess + block - 1
  local least = up - math.fmod(up, block) - outside
  local member, before = unpack(redis.call('ZRANGEBYSCORE', STARTS, digits(least), '+inf', 'WITHSCORES', 'LIMIT', 0, 1))
  if member == 'end' and not falls_to_last then
    member, before = unpack(redis.call('ZRANGE', STARTS, -2, -2, 'WITHSCORES'))
  end
  if member and member ~= 'end' then
    start, question = tonumber(string.sub(member, 1, 16)) - OFFSET, tonumber(string.sub(member, 18))
    tokens = inside + total - before
    if start < 0 then tokens = tokens - base end
  else
    start, tokens = finish, inside
    local row
    if falls_to_last and finish > first then
      start, row = finish - 1, redis.call('LINDEX', MESSAGES, -1)
    elseif falls_to_last and head > 0 and not with_head then
      start, row = -1, last_of_head(1)
    end
    if row then
      local own, before_it, asks = facts_of(row, start)
      if not own then return {'foreign'} end
      question = asks
      if before_it then tokens = inside + total - before_it - (start < 0 and base or 0) else tokens = inside + own end
    end
  end
end

local front = ''
if with_head then front = heads elseif start < 0 then front = last_of_head(-start) end
if question and question >= first then front = front .. redis.call('LINDEX', MESSAGES, question - first + 1) end
local rows, from = {}, math.max(start, first)
if from < finish then rows = redis.call('LRANGE', MESSAGES, from - first + 1, -1) end
return {'ok', found[2], digits(start), question and digits(question) or '', digits(tokens), joined(front, rows)}
