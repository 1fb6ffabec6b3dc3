-- Removes a session, and answers with whether there was one. ARGV: only if it was last changed before this time (empty: in
-- any case).

local problem, found = open('updated_at')
if problem then return problem end
if not found or (ARGV[1] ~= '' and tonumber(found[4]) >= tonumber(ARGV[1])) then return {'ok', 0} end
redis.call('DEL', SESSION, MESSAGES, STARTS)
return {'ok', 1}
