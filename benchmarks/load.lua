-- What wrk sends: `wrk -s load.lua URL -- KIND ACCOUNTS TAG`, where KIND is one of those below. The
-- tag makes the keys of new accounts its own. Prints one line of JSON at the end.

local kind, accounts, tag, count = nil, 1, "", 0
local range = "?start_date=2026-10-24&end_date=2026-11-22"

function init(args)
   kind, accounts, tag = args[1], tonumber(args[2]), args[3]
end

local function get(path)
   return wrk.format("GET", path)
end

local function post()
   local body = string.format(
      '{"api_key": "sk_live_%s_%08d", "name": "Merchant %d", "email": "owner%d@merchant.example"}',
      tag, count, count, count)
   return wrk.format("POST", "/accounts", nil, body)
end

function request()
   count = count + 1
   local id = (count * 7919) % accounts + 1
   if kind == "account" then return get("/accounts/" .. id) end
   if kind == "usage" then return get("/accounts/usage/" .. id .. range) end
   if kind == "all" then return get("/accounts/usage" .. range) end
   if kind == "create" then return post() end
   -- mixed
   if count % 10 == 0 then return post() end
   if count % 3 == 0 then return get("/accounts/usage/" .. id .. range) end
   return get("/accounts/" .. id)
end

function done(summary, latency)
   local errors = summary.errors
   print(string.format(
      '{"per_second": %f, "p50": %f, "p99": %f, "requests": %d, "failed": %d}',
      summary.requests / summary.duration * 1e6, latency:percentile(50) / 1e3,
      latency:percentile(99) / 1e3, summary.requests,
      errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
