-- Decides a request and counts it if it is allowed, or tells the counters.
--
-- KEYS: of the tenant and of each of its scopes: the clock minute, the one before, the hour, the month.
-- ARGV: the caller's time in milliseconds, or '' for this server's;
--       the start of the minute, the end of the hour and of the month that the keys are of;
--       the cost, or '' to count nothing;
--       of the tenant and of each scope: 1 if the minute slides, the limits of minute, hour and month.
-- Answers 1 if it counted, 0 if not, -1 if the keys are of another minute than the time;
--       the time; live and settled of each key, as they were before.
--
-- Numbers are whole and below 2^53: a double holds them exactly, and the server writes them without a point.
local call, floor = redis.call, math.floor
local now
if ARGV[1] == '' then
    local time = call('TIME')
    now = time[1] * 1000 + floor(time[2] / 1000)
else
    now = tonumber(ARGV[1])
end
local start = tonumber(ARGV[2])
if now < start or now >= start + 60000 then return { -1, now } end

-- What each key has is the greater of live and settled.
local answer, used = { 0, now }, {}
for i, key in ipairs(KEYS) do
    local counter = call('HMGET', key, 'live', 'settled')
    local live, settled = tonumber(counter[1] or 0), tonumber(counter[2] or 0)
    answer[2 * i + 1], answer[2 * i + 2] = live, settled
    used[i] = live > settled and live or settled
end
if ARGV[5] == '' then return answer end

local cost = tonumber(ARGV[5])
for first = 1, #KEYS, 4 do
    local minute = used[first]
    if ARGV[5 + first] == '1' then
        -- floor(before * left / 60000), in steps that stay below 2^53.
        local before, left = used[first + 1], start + 60000 - now
        local rest = before % 60000
        minute = minute + (before - rest) / 60000 * left + floor(rest * left / 60000)
    end
    if minute + cost > tonumber(ARGV[6 + first])
        or used[first + 2] + cost > tonumber(ARGV[7 + first])
        or used[first + 3] + cost > tonumber(ARGV[8 + first])
    then return answer end
end

answer[1] = 1
if cost == 0 then return answer end
-- Of minute, minute before, hour and month.
local deaths = { start + 120000, nil, ARGV[3] + 120000, ARGV[4] + 120000 }
for i, key in ipairs(KEYS) do
    local death = deaths[(i - 1) % 4 + 1]
    if death then
        call('HSET', key, 'live', math.min(used[i] + cost, 9007199254740991))
        if used[i] == 0 then call('PEXPIRE', key, death - now) end
    end
end
return answer
