-- Raises counters of one tenant: `settled` to a value, or `live` by a cost.
--
-- KEYS: windows.
-- ARGV: the caller's time in milliseconds, or '' for this server's; 'settle' or 'add';
--       of each window: the value or the cost, the window's start, and the time until which it is kept.
-- Answers the time, in a list as the other script does.
local now
if ARGV[1] == '' then
    local time = redis.call('TIME')
    now = time[1] * 1000 + math.floor(time[2] / 1000)
else
    now = tonumber(ARGV[1])
end
local MOST = 9007199254740991
for i, key in ipairs(KEYS) do
    local value, start, death = tonumber(ARGV[3 * i]), tonumber(ARGV[3 * i + 1]), tonumber(ARGV[3 * i + 2])
    -- No decision looks at a window that is over, and none soon at one that is far ahead.
    if death > now and start - now <= death - start then
        local counter = redis.call('HMGET', key, 'live', 'settled')
        local live, settled = tonumber(counter[1] or 0), tonumber(counter[2] or 0)
        local field, new = 'settled', value
        if ARGV[2] == 'add' then field, new = 'live', math.max(live, settled) + value end
        if value > 0 and new > (field == 'live' and live or settled) then
            redis.call('HSET', key, field, string.format('%.0f', math.min(new, MOST)))
            if live == 0 and settled == 0 then
                redis.call('PEXPIRE', key, string.format('%.0f', death - now))
            end
        end
    end
end
return { now }
