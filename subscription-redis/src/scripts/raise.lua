-- Raises counters of one tenant: `settled` to a value, or `live` by a cost.
--
-- KEYS: windows.
-- ARGV: the caller's time in milliseconds, or '' for this server's; 'settle' or 'add';
--       of each window: the value or the cost, the window's start, and the time until which it is kept.
-- Answers the time, in a list as the other script does.
--
-- Numbers are whole and below 2^53: a double holds them exactly, and the server writes them without a point.
local call = redis.call
local now
if ARGV[1] == '' then
    local time = call('TIME')
    now = time[1] * 1000 + math.floor(time[2] / 1000)
else
    now = tonumber(ARGV[1])
end
for i, key in ipairs(KEYS) do
    local value, start, death = tonumber(ARGV[3 * i]), tonumber(ARGV[3 * i + 1]), tonumber(ARGV[3 * i + 2])
    -- No decision looks at a window that is over, and none soon at one that is far ahead.
    if death > now and start - now <= death - start then
        local settled = tonumber(call('HMGET', key, 'settled')[1] or 0)
        local field, old, new = 'settled', settled, value
        if ARGV[2] == 'add' then
            field, old = 'live', tonumber(call('HMGET', key, 'live')[1] or 0)
            new = math.max(old, settled) + value
        end
        if value > 0 and new > old then
            -- All fields of a key are kept as long as each other.
            if call('HSET', key, field, math.min(new, 9007199254740991)) == 1 then
                call('PEXPIRE', key, death - now)
            end
        end
    end
end
return { now }
