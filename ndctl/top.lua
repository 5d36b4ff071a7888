-- top.lua - `ndctl top`: what the containers use, as it goes.
--
-- On a terminal the table is redrawn in place, with a line of bars of what each has used since the
-- start; off it every interval prints a table of its own.

local out = require "ndctl.lib.out"
local spark = require "ndctl.lib.spark"
local stream = require "ndctl.lib.stream"
local tables = require "ndctl.lib.table"
local term = require "term"
local text = require "ndctl.lib.text"
local usage = require "ndctl.lib.usage"

local KEEP = 60     -- frames of each container
local COLUMNS = 12  -- of a line of bars
local WIDE = 120    -- columns of a terminal that all of the table fits in

local function traffic(row)
  local rates = row.rates or {}
  return (rates.received or 0) + (rates.sent or 0)
end

local function name(row) return usage.app(row) .. " " .. row.instance end

local orders = {
  cpu = function(row) return -(row.cpu or 0) end,
  memory = function(row) return -(row.memory or 0) end,
  network = function(row) return -traffic(row) end,
  name = name,
}

local function sort(list, by)
  local key = orders[by]
  table.sort(list, function(a, b)
    local x, y = key(a), key(b)
    if x ~= y then return x < y end
    return name(a) < name(b)
  end)
end

local function push(list, value)
  list[#list + 1] = value or false
  if #list > KEEP then table.remove(list, 1) end
end

-- What has been seen: of the host, and by container.
local Seen = {}
Seen.__index = Seen

local function new_seen() return setmetatable({ host = { cpu = {}, memory = {} }, by = {} }, Seen) end

function Seen:add(m)
  push(self.host.cpu, m.cpu)
  push(self.host.memory, m.memory)
  local by = {}
  for _, row in ipairs(m.containers) do
    local past = self.by[row.instance] or { cpu = {}, memory = {} }
    push(past.cpu, row.cpu)
    push(past.memory, row.memory)
    by[row.instance] = past
  end
  self.by = by
end

-- The columns of bars, always as wide.
function Seen:bars()
  local function column(metric)
    return function(row)
      return text.pad(spark.line(self.by[row.instance][metric], COLUMNS), COLUMNS, true)
    end
  end
  return { cpu = column "cpu", memory = column "memory" }
end

local function host_line(m, seen)
  local function part(metric)
    local bars = seen and " " .. spark.line(seen.host[metric], COLUMNS, 100) or ""
    return ("%s %s%s"):format(metric, usage.percent(m[metric]), bars)
  end
  return ("%s  %s  disk %s  %s"):format(part "cpu", part "memory", usage.percent(m.disk), usage.host(m))
end

local function lines_of(m, by, seen)
  sort(m.containers, by)
  local lines = { host_line(m, seen) }
  if #m.containers > 0 then
    local columns = usage.columns(seen and seen:bars(), seen and (term.size(1) or WIDE) < WIDE)
    table.move(tables.render(columns, m.containers), 1, #m.containers + 1, 2, lines)
  end
  return lines
end

-- Draws over what was drawn before.
local function redraw(lines, drawn)
  local columns, rows = term.size(1)
  local paint = out.painter(1)
  local parts = { drawn > 0 and ("\r\27[%dA\27[J"):format(drawn) or "" }
  local n = math.min(#lines, (rows or 24) - 1)
  for i = 1, n do
    local line = text.fit(lines[i], columns or 80, not out.utf8)
    parts[#parts + 1] = (i == 2 and paint(line, "bold") or line) .. "\n"
  end
  io.stdout:write(table.concat(parts))
  io.stdout:flush()
  return n
end

local function run(ctx)
  local c, o = ctx.client(), ctx.options
  local live = term.isatty(1) and not o.json
  local seen, drawn, frames = live and new_seen() or nil, 0, 0
  local query = c:scoped { app = ctx.args.app, containers = "true", interval = o.interval }
  stream.each(c, "/ws/metrics", query, true, function(m)
    frames = frames + 1
    if o.json then
      out.print(require "json".encode(m))
    elseif live then
      seen:add(m)
      drawn = redraw(lines_of(m, o.sort, seen), drawn)
    else
      if frames > 1 then out.print("") end
      out.print(lines_of(m, o.sort))
    end
    return frames ~= o.n
  end)
end

return {
  name = "top",
  summary = "Show what the containers use, as it goes.",
  args = { { "app", optional = true } },
  options = {
    { "interval", value = "TIME", type = "duration", default = "2s", doc = "from one look to the next" },
    { "n", short = "n", value = "N", type = "int", least = 1, doc = "end after so many looks" },
    { "sort", value = "KEY", type = "choice", choices = { "cpu", "memory", "network", "name" }, default = "cpu",
      doc = "cpu, memory, network or name" },
  },
  permission = "read", json = "SystemMetrics lines",
  examples = {
    { "ndctl top", follows = true },
    { "ndctl top web --sort memory --interval 5s", follows = true },
    { "ndctl top -n 1 --json" },
  },
  run = run,
}
