-- Errors as recipes see them: tables {code, message, hint?, data?, traceback?} that print as their
-- message.
--
-- What the world refuses (an effect that failed) has its own stable code; a plain error("text") or
-- a mistake in the recipe gets "recipe_error" where it leaves its task.

local M = {}

local class = { __name = "error" }

function class.__tostring(e)
  return string.format("%s (%s)", tostring(e.message), tostring(e.code))
end

-- An error object from a table with at least `code` and `message`.
function M.new(fields)
  return setmetatable(fields, class)
end

function M.is(value)
  return getmetatable(value) == class
end

function M.raise(code, message, hint, data)
  error(M.new({ code = code, message = message, hint = hint, data = data }), 0)
end

-- A hint for what Lua itself said, or nil; main.lua knows better.
function M.explain()
end

-- Any error value as an error object: what a task that died of it reports.
function M.of(value)
  if M.is(value) then
    return value
  end
  if type(value) ~= "table" then
    local text = type(value) == "string" and value
      or "the error value is " .. (value == nil and "nil" or "a " .. type(value))
    return M.new({ code = "recipe_error", message = text, hint = M.explain(text) })
  end
  local text = rawget(value, "message")
  return M.new({
    code = type(rawget(value, "code")) == "string" and value.code or "recipe_error",
    message = type(text) == "string" and text or tostring(value),
    hint = type(rawget(value, "hint")) == "string" and value.hint or nil,
    data = rawget(value, "data"),
  })
end

return M
