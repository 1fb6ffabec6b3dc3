-- Answers like `read.lua`, and keeps other writers from the session for a moment. Then a change that takes long to
-- compute still finds the session unchanged. If another writer has claimed it already, nothing is done.
--
-- ARGV: what identifies this writer; for how many milliseconds.

local problem, found, length = open('updated_at', 'claim')
if problem then return problem end
if not found then return {'none'} end
local _, is_whole = numbers_of(found[2], length)
if not is_whole then return {'foreign'} end
local holder = holder_of(found[5])
if not holder or holder == ARGV[1] then
  redis.call('HSET', SESSION, 'claim', digits(milliseconds() + ARGV[2]) .. ' ' .. ARGV[1])
end
return {'ok', found[2], found[4]}
