-- The configuration of a release, from its row. Whoever acts on a release asks for it, or for `check`, first:
-- both raise release_damaged where the row isn't what was written; `problem` is that error, or nil.

local json = require "json"
local err = require "nd.error"

local M = {}

local function decode(release)
  local ok, config = pcall(json.decode, release.config)
  return not release.damaged and ok and config or nil
end

function M.problem(release)
  if decode(release) then return nil end
  return err.from(err.new("release_damaged", ("release %s is damaged: its row in the database is not what was "
    .. "written, so nothing is done with it, and its containers stay as they are"):format(tostring(release.number)),
    "`ndctl rollback APP` goes to the one before; or put the row right with sqlite3, with checksum = 0"))
end

function M.check(release)
  local problem = M.problem(release)
  if problem then err.raise(problem.code, problem.message, problem.hint) end
  return release
end

function M.of(release) return decode(release) or M.check(release) end

return M
