-- Answers as `read.lua`, and keeps other writers from the session for a moment, so that a change that takes long to compute
-- finds it as it was. If another writer has it already, nothing is kept.
--
-- ARGV: what tells this writer from others; for how many milliseconds.

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
