-- lib/secret.lua - what nobody else may see: from stdin or the terminal, never from an argument.

local fail = require "ndctl.lib.fail"

local secret = {}

-- options.password_stdin: the next line of stdin; else asked for without echo.
function secret.read(options, prompt)
  local term = require "term"
  if options.password_stdin then
    local line = io.stdin:read "l"
    line = line and line:gsub("\r$", "")
    if not line or line == "" then fail.usage("--password-stdin: there is no password on stdin") end
    return line
  end
  if not term.isatty(0) then
    fail.usage("there is no terminal to ask for the password on", "pipe it in, and add --password-stdin")
  end
  local line = term.ask(prompt, true)
  if not line or line == "" then fail.raise("declined", "no password was given; nothing was changed") end
  return line
end

-- One that is to be: asked for twice on a terminal.
function secret.new(options, prompt)
  local first = secret.read(options, prompt)
  if not options.password_stdin and secret.read(options, "Again: ") ~= first then
    fail.raise("declined", "the two are not the same; nothing was changed")
  end
  return first
end

return secret
