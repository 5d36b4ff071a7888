-- lib/exposition.lua - reads Prometheus's text exposition (version 0.0.4), strictly.
--
-- `exposition.parse(text)` returns the families in order: {name, type, help?, samples = {{name, labels =
-- {name = value}, value, time?}}}; what isn't well-formed raises {code = "bad_exposition"} with its
-- line. Beside the syntax: HELP and TYPE once and before the samples, a family in one piece, no sample
-- twice, suffixes that fit the type, no counter below zero, buckets that only grow up to +Inf.

local fail = require "ndctl.lib.fail"

local exposition = {}

local types = { counter = true, gauge = true, histogram = true, summary = true, untyped = true }
local suffixes = {
  histogram = { _bucket = true, _sum = true, _count = true },
  summary = { [""] = true, _sum = true, _count = true },
}

local Parser = {}
Parser.__index = Parser

function Parser:bad(message)
  fail.raise("bad_exposition", ("line %d: %s"):format(self.line, message))
end

local function value_of(text)
  local special = { ["+Inf"] = math.huge, Inf = math.huge, ["-Inf"] = -math.huge, NaN = 0 / 0 }
  if special[text] then return special[text] end
  return text:find("^[+-]?[%d.]+[eE]?[+-]?%d*$") and tonumber(text) or nil
end

-- The family that a sample belongs to: by its whole name, or without the suffix of its type.
function Parser:family_of(name)
  local family = self.by_name[name]
  if family then return family, "" end
  for _, suffix in ipairs { "_bucket", "_sum", "_count" } do
    local base = name:sub(-#suffix) == suffix and self.by_name[name:sub(1, -#suffix - 1)]
    if base and suffixes[base.type] and suffixes[base.type][suffix] then return base, suffix end
  end
end

function Parser:open(name)
  if self.by_name[name] then return self.by_name[name] end
  local family = { name = name, samples = {} }
  self.by_name[name] = family
  self.families[#self.families + 1] = family
  return family
end

function Parser:comment(line)
  local what, name, rest = line:match("^# (%u+) (%S+) ?(.*)$")
  if what ~= "HELP" and what ~= "TYPE" then return end
  if not name:find("^[%a_:][%w_:]*$") then self:bad(("'%s' isn't a metric's name"):format(name)) end
  local family = self:open(name)
  if #family.samples > 0 then self:bad(("%s of %s comes after its samples"):format(what, name)) end
  local key = what:lower()
  if family[key] then self:bad(("a second %s of %s"):format(what, name)) end
  if what == "TYPE" and not types[rest] then self:bad(("'%s' isn't a type"):format(rest)) end
  family[key] = rest
end

local escapes = { ["\\"] = "\\", ['"'] = '"', n = "\n" }

-- Labels from `at` (after the brace); returns them and where they end.
function Parser:labels(line, at)
  local labels = {}
  while true do
    at = line:match("^%s*()", at)
    if line:sub(at, at) == "}" then return labels, at + 1 end
    local name, from = line:match("^([%a_][%w_]*)%s*=%s*\"()", at)
    if not name then self:bad("labels are NAME=\"VALUE\", separated by commas") end
    if labels[name] then self:bad(("the label %s twice"):format(name)) end
    local to = from
    while line:sub(to, to) ~= '"' do
      if to > #line then self:bad("a label's value without its end") end
      to = to + (line:sub(to, to) == "\\" and 2 or 1)
    end
    local value = line:sub(from, to - 1)
    labels[name] = value:gsub("\\(.)", function(c)
      return escapes[c] or self:bad(("\\%s isn't an escape"):format(c))
    end)
    if not utf8.len(labels[name]) then self:bad("a label's value isn't UTF-8") end
    at = line:match("^%s*,?()", to + 1)
    if not line:find("^%s*[,}]", to + 1) then self:bad("labels are separated by commas") end
  end
end

local function key_of(name, labels, without)
  local parts = {}
  for label, value in pairs(labels) do
    if label ~= without then parts[#parts + 1] = ("%s=%q"):format(label, value) end
  end
  table.sort(parts)
  return name .. "{" .. table.concat(parts, ",") .. "}"
end

-- Buckets of one histogram come in order of their bounds, and their counts never fall.
function Parser:bucket(family, labels, value)
  local bound = labels.le and value_of(labels.le)
  if not bound then self:bad("a bucket needs a label le that is a number") end
  local key = key_of(family.name, labels, "le")
  local last = self.buckets[key]
  if last and (bound <= last.bound or value < last.value) then self:bad("buckets that don't grow") end
  self.buckets[key] = { bound = bound, value = value }
end

function Parser:sample(line)
  local name, at = line:match("^([%a_:][%w_:]*)()")
  if not name then self:bad("a line is a comment or a sample, NAME{LABELS} VALUE") end
  local labels = {}
  if line:find("^%s*{", at) then labels, at = self:labels(line, line:match("^%s*{()", at)) end
  local number, time, rest = line:match("^%s+(%S+)%s*(-?%d*)(.*)$", at)
  local value = number and value_of(number)
  if not value or rest:find("%S") then self:bad(("the value of %s isn't a number"):format(name)) end
  local family, suffix = self:family_of(name)
  family = family or self:open(name)
  if self.current ~= family and #family.samples > 0 then self:bad(family.name .. " isn't in one piece") end
  self.current = family
  if suffixes[family.type] and not suffixes[family.type][suffix or ""] then
    self:bad(("a %s has no sample %s"):format(family.type, name))
  end
  local key = key_of(name, labels)
  if self.seen[key] then self:bad(("%s was there before"):format(key)) end
  self.seen[key] = true
  if family.type == "counter" and value < 0 then self:bad(("the counter %s is below zero"):format(name)) end
  if suffix == "_bucket" then self:bucket(family, labels, value) end
  family.samples[#family.samples + 1] = { name = name, labels = labels, value = value,
    time = math.tointeger(tonumber(time)) }
end

function exposition.parse(text)
  local self = setmetatable({ line = 0, families = {}, by_name = {}, seen = {}, buckets = {} }, Parser)
  if text ~= "" and text:sub(-1) ~= "\n" then
    self.line = select(2, text:gsub("\n", "")) + 1
    self:bad("the last line has no end")
  end
  for line in text:gmatch("([^\n]*)\n") do
    self.line = self.line + 1
    if line:find("^#") then
      self:comment(line)
    elseif line:find("%S") then
      self:sample(line)
    end
  end
  for key, last in pairs(self.buckets) do
    if last.bound ~= math.huge then self:bad(("the buckets of %s don't end with +Inf"):format(key)) end
  end
  for _, family in ipairs(self.families) do family.type = family.type or "untyped" end
  return self.families
end

return exposition
