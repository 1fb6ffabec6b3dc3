-- Upgrades a session of an older layout to this layout, by one step of `UPGRADES` after another.

local version = redis.call('HGET', SESSION, 'version')
while version and version ~= VERSION do
  local step = UPGRADES[version]
  if not step then return {'version', version} end
  step()
  version = digits(version + 1)
  redis.call('HSET', SESSION, 'version', version)
end
return 1
