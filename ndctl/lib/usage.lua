-- lib/usage.lua - what the host and containers use, as `ndctl metrics` and `ndctl top` tell it.

local text = require "ndctl.lib.text"

local usage = {}

function usage.percent(value)
  return type(value) == "number" and ("%.1f%%"):format(value) or nil
end

function usage.bytes(value)
  return type(value) == "number" and text.bytes(math.floor(value)) or nil
end

function usage.rate(value)
  return type(value) == "number" and text.bytes(math.floor(value)) .. "/s" or nil
end

-- A container's name for people: the app, beyond the usual scope with that.
function usage.app(row)
  local parts = {}
  if row.project ~= "default" then parts[#parts + 1] = row.project end
  if row.environment ~= "production" then parts[#parts + 1] = row.environment end
  parts[#parts + 1] = row.app
  return table.concat(parts, "/")
end

function usage.process(row)
  return row.index and row.index > 1 and ("%s.%d"):format(row.process, row.index) or row.process
end

local function flow(name)
  return function(row) return usage.rate((row.rates or {})[name]) end
end

-- The columns of a table of containers. With `bars`, `bars.cpu` and `bars.memory` stand after their
-- own; on a `narrow` terminal what matters less is left out.
function usage.columns(bars, narrow)
  local columns = {}
  for _, column in ipairs {
    { "APP", usage.app },
    { "PROCESS", usage.process },
    { "RELEASE", "release", right = true, less = true },
    { "CPU", function(row) return usage.percent(row.cpu) end, right = true, bars = "cpu" },
    { "MEMORY", function(row) return usage.bytes(row.memory) end, right = true, bars = "memory" },
    { "LIMIT", function(row) return usage.bytes(row.memory_limit) end, right = true, less = true },
    { "IN", flow "received", right = true },
    { "OUT", flow "sent", right = true },
    { "READ", flow "read", right = true, less = true },
    { "WRITE", flow "written", right = true, less = true },
    { "PIDS", "pids", right = true },
    { "RESTARTS", "restarts", right = true, less = true },
  } do
    if not (narrow and column.less) then columns[#columns + 1] = column end
    if bars and column.bars then columns[#columns + 1] = { "", bars[column.bars] } end
  end
  return columns
end

-- "up 4h4m, 2 cores, load 0.51 0.78 1.63"
function usage.host(m)
  local load = m.load and ("load %.2f %.2f %.2f"):format(m.load[1], m.load[2], m.load[3])
  local parts = { "up " .. m.uptime, m.cores and text.plural(m.cores, "core") }
  parts[#parts + 1] = load
  return table.concat(parts, ", ")
end

return usage
