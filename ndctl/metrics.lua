-- metrics.lua - `ndctl metrics`: what the host and the containers use, now and in the last hour.

local out = require "ndctl.lib.out"
local spark = require "ndctl.lib.spark"
local tables = require "ndctl.lib.table"
local usage = require "ndctl.lib.usage"

local COLUMNS = 30 -- of the last hour

-- The last hour of a metric as a line, scaled to `most` or to its own largest value.
local function last_hour(c, query, metric, most)
  query.metric, query.from, query.step = metric, "1h", "1m"
  local ok, range = pcall(c.call, c, "GET", "/metrics/history", { query = query })
  if not ok then return "" end
  return spark.line(spark.squeeze(range.values, COLUMNS), COLUMNS, most)
end

local function used(total, free)
  return ("%s of %s"):format(usage.bytes(total - free), usage.bytes(total))
end

local function flows(m, a, from, b, to)
  local rates = m.rates or {}
  if not rates[a] then return nil end
  return ("%s %s, %s %s"):format(usage.rate(rates[a]), from, usage.rate(rates[b]), to)
end

local function show_host(c, m)
  out.print("host: " .. usage.host(m))
  local p = m.pressure
  out.print(tables.pairs({
    { "cpu", ("%6s  %s"):format(usage.percent(m.cpu), last_hour(c, {}, "cpu", 100)) },
    { "memory", ("%6s  %s  %s"):format(usage.percent(m.memory), last_hour(c, {}, "memory", 100),
      used(m.memory_total, m.memory_available)) },
    { "disk", ("%6s  %s free"):format(usage.percent(m.disk), usage.bytes(m.disk_free)) },
    { "swap", m.swap_total and m.swap_total > 0 and used(m.swap_total, m.swap_free) or nil },
    { "network", flows(m, "received", "in", "sent", "out") },
    { "disk i/o", flows(m, "read", "read", "written", "written") },
    { "pressure", p and ("cpu %.1f%%, memory %.1f%%, io %.1f%%"):format(p.cpu, p.memory, p.io) },
  }, "  "))
end

local function show_containers(list)
  if #list == 0 then return out.progress("No container runs.") end
  out.print(tables.render(usage.columns(), list))
end

local function show_app(c, name, list)
  show_containers(list)
  out.print("")
  out.print(tables.pairs({
    { "cpu, last hour", last_hour(c, c:scoped { app = name }, "cpu") },
    { "memory, last hour", last_hour(c, c:scoped { app = name }, "memory") },
  }, "  "))
end

-- The exposition is a text without an envelope.
local function show_prometheus(c)
  local options = { query = { format = "prometheus" } }
  local answer = c:request("GET", "/metrics", options)
  if answer.status ~= 200 then c:call("GET", "/metrics", options) end -- raises what it says
  io.stdout:write(answer.body)
end

return {
  name = "metrics",
  summary = "Show what the host and the containers use, now and in the last hour.",
  args = { { "app", optional = true } },
  options = {
    { "app", value = "APP", doc = "only this app's containers" },
    { "prometheus", type = "flag", doc = "all metrics, as Prometheus reads them" },
  },
  permission = "read", json = "SystemMetrics",
  examples = {
    { "ndctl metrics" },
    { "ndctl metrics web" },
    { "ndctl metrics --app web --json" },
    { "ndctl metrics --prometheus" },
  },
  run = function(ctx)
    local c, app = ctx.client(), ctx.args.app or ctx.options.app
    if ctx.options.prometheus then return show_prometheus(c) end
    local m = c:call("GET", "/metrics", { query = c:scoped { app = app, containers = "true" } })
    if ctx.options.json then return out.json(m) end
    if app then return show_app(c, app, m.containers) end
    show_host(c, m)
    if #m.containers > 0 then out.print("") end
    show_containers(m.containers)
  end,
}
