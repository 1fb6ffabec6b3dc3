-- Removes a session. Answers whether there was one. ARGV: remove it only if it last changed before this time (empty:
-- always).

local problem, found, length = open('updated_at')
if problem then return problem end
if not found then return {'ok', 0} end
local _, is_whole = numbers_of(found[2], length)
if not is_whole then return {'foreign'} end
if ARGV[1] ~= '' and tonumber(found[4]) >= tonumber(ARGV[1]) then return {'ok', 0} end
redis.call('DEL', SESSION, MESSAGES, STARTS)
return {'ok', 1}
