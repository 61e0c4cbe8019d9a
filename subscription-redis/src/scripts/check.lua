-- Decides a request and counts it if it is allowed, or tells the counters.
--
-- KEYS: of the tenant and of each of its scopes: the clock minute, the one before, the hour, the month.
-- ARGV: the caller's time in milliseconds, or '' for this server's;
--       the start of the minute, the end of the hour and of the month that the keys are of;
--       the cost, or '' to count nothing;
--       of the tenant and of each scope: 1 if the minute slides, the limits of minute, hour and month.
-- Answers 1 if it counted, 0 if not, -1 if the keys are of another minute than the time;
--       the time; live and settled of each key, as they were before.
local now
if ARGV[1] == '' then
    local time = redis.call('TIME')
    now = time[1] * 1000 + math.floor(time[2] / 1000)
else
    now = tonumber(ARGV[1])
end
local start = tonumber(ARGV[2])
if now < start or now >= start + 60000 then return { -1, now } end

local answer = { 0, now }
for i, key in ipairs(KEYS) do
    local counter = redis.call('HMGET', key, 'live', 'settled')
    answer[2 * i + 1] = tonumber(counter[1] or 0)
    answer[2 * i + 2] = tonumber(counter[2] or 0)
end
if ARGV[5] == '' then return answer end

local cost = tonumber(ARGV[5])
-- What each key has, the greater of live and settled.
local function used(key) return math.max(answer[2 * key + 1], answer[2 * key + 2]) end
-- floor(used * left / 60000), in steps that a double holds exactly.
local function share(used, left)
    local rest = math.fmod(used, 60000)
    return (used - rest) / 60000 * left + math.floor(rest * left / 60000)
end
for first = 1, #KEYS, 4 do
    local minute = used(first)
    if ARGV[5 + first] == '1' then minute = minute + share(used(first + 1), start + 60000 - now) end
    if minute + cost > tonumber(ARGV[6 + first])
        or used(first + 2) + cost > tonumber(ARGV[7 + first])
        or used(first + 3) + cost > tonumber(ARGV[8 + first])
    then return answer end
end

answer[1] = 1
if cost == 0 then return answer end
local MOST = 9007199254740991
local function add(key, death)
    redis.call('HSET', KEYS[key], 'live', string.format('%.0f', math.min(used(key) + cost, MOST)))
    if used(key) == 0 then redis.call('PEXPIRE', KEYS[key], string.format('%.0f', death - now)) end
end
for first = 1, #KEYS, 4 do
    add(first, start + 120000)
    add(first + 2, ARGV[3] + 120000)
    add(first + 3, ARGV[4] + 120000)
end
return answer
