-- The name that somebody who mistyped probably meant: for recipes, the daemon and ndctl.

local M = {}

-- Edits (insert, delete, replace, swap of neighbours) between two words.
local function distance(a, b)
  local before, last = nil, {}
  for j = 0, #b do
    last[j] = j
  end
  for i = 1, #a do
    local row = { [0] = i }
    for j = 1, #b do
      local same = a:byte(i) == b:byte(j)
      row[j] = math.min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (same and 0 or 1))
      local swapped = before and j > 1 and a:byte(i) == b:byte(j - 1)
        and a:byte(i - 1) == b:byte(j)
      if swapped then
        row[j] = math.min(row[j], before[j - 2] + 1)
      end
    end
    before, last = last, row
  end
  return last[#b]
end

-- The one of `names` (a list) that is closest to `word`, or begins with it; nil where none does.
function M.of(word, names)
  local best, least
  if #word > 64 then
    return nil
  end
  for _, name in ipairs(names) do
    local edits = distance(word:lower(), name:lower())
    local tolerated = math.max(1, math.floor(math.min(#word, #name) / 3))
    if edits <= tolerated and (not least or edits < least) then
      best, least = name, edits
    end
  end
  for _, name in ipairs(not best and #word >= 3 and names or {}) do
    if name:sub(1, #word) == word then
      return name
    end
  end
  return best
end

-- ' (did you mean "path"?)' or "".
function M.hint(word, names)
  local name = M.of(tostring(word), names)
  return name and string.format(" (did you mean %q?)", name) or ""
end

return M
