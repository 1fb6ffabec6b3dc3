-- Answers with the session as JSON, `forgotten`, the head's rows if asked for, the position of the first other row, and
-- these rows in parts.
--
-- ARGV: the epoch that the session must have (empty for any); the first position and the one after the last (negative
-- ones are the head's); or instead a number of messages at the end (empty for none); the most rows to answer with.

local epoch, start, stop, count, most = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local problem, found, length = open('forgotten', 'head')
if problem then return problem end
if not found then return {'none'} end
local numbers, is_whole = numbers_of(found[2], length)
if not is_whole then return {'foreign'} end
if epoch ~= '' and digits(numbers[17]) ~= epoch then return {'changed'} end

local first, finish = numbers[4], numbers[8]
if count then
  start, stop = finish - count, finish
  if start < first then start = finish - first - count end
end
local rows = {}
local from, to = math.max(start, first), math.min(stop, finish)
if from < to then rows = redis.call('LRANGE', MESSAGES, from - first + 1, math.min(to, from + most) - first) end
return {'ok', found[2], found[4] or '', start < 0 and found[5] or '', digits(start), digits(from), joined('', rows)}
