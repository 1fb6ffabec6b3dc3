-- Removes a session of layout 1. KEYS are its keys.

local problem = open()
if not problem or problem[2] ~= '1' then return {'ok', 0} end
redis.call('DEL', unpack(KEYS))
return {'ok', 1}
