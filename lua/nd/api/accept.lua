-- The Accept header (RFC 9110, 12.5.1): which of the forms there are a client likes best.

local M = {}

-- "text/plain;version=0.0.4" -> "text/plain", {version = "0.0.4"}
local function media(text)
  local kind, rest = text:match "^%s*([^%s;]+)%s*(.*)$"
  if not kind or not kind:find "^[^/]+/[^/]+$" then return nil end
  local params = {}
  for name, value in rest:gmatch ";%s*([^%s;=]+)%s*=%s*([^;]*)" do
    value = value:gsub("%s+$", "")
    params[name:lower()] = (value:match '^"(.*)"$' or value):lower()
  end
  return kind:lower(), params
end

-- A weight is 0 to 1 with at most three digits; nil for anything else.
local function weight(params)
  local q = params.q
  params.q = nil
  if not q then return 1 end
  return (q:find "^0%.?%d?%d?%d?$" or q:find "^1%.?0?0?0?$") and tonumber(q) or nil
end

-- How closely a range names an offer: 0 is not at all; the closest decides.
local function closeness(kind, params, offer, offered)
  if kind == "*/*" then return 1 end
  if kind:match "^(.*)/%*$" then return kind:match "^(.*)/" == offer:match "^(.*)/" and 2 or 0 end
  if kind ~= offer then return 0 end
  local n = 3
  for name, value in pairs(params) do
    if offered[name] ~= value then return 0 end
    n = n + 1
  end
  return n
end

-- header: the Accept header, or nil; offers: media types, the one we prefer first. Returns the best of
-- them; nil where the client takes none.
function M.best(header, offers)
  if not header or not header:find "%S" then return offers[1] end
  local best, best_q = nil, 0
  for _, offer in ipairs(offers) do
    local name, offered = media(offer)
    local closest, q = 0, 0
    for part in header:gmatch "[^,]+" do
      local kind, params = media(part)
      local wanted = kind and weight(params)
      local n = wanted and closeness(kind, params, name, offered) or 0
      if n > closest then closest, q = n, wanted end
    end
    if q > best_q then best, best_q = offer, q end
  end
  return best
end

return M
