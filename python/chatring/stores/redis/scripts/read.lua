-- Answers with the session as JSON, and the time when it last changed.

local problem, found, length = open('updated_at')
if problem then return problem end
if not found then return {'none'} end
local _, is_whole = numbers_of(found[2], length)
if not is_whole then return {'foreign'} end
return {'ok', found[2], found[4]}
