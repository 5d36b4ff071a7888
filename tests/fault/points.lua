-- Every named point that an effect has, a line each: run by nd-test-host for tests/fault/kill.
-- before (the intent), asked (after it), acted, answered; and undoing, undone where the effect can be undone.

local effects = require "nd.effect"

for _, row in ipairs(require "nd.recipe.effects") do
  local name = row[1]
  local points = { "before", "asked", "acted", "answered" }
  if effects.find(name).undo then table.move({ "undoing", "undone" }, 1, 2, 5, points) end
  for _, point in ipairs(points) do print(("point effect.%s.%s"):format(name, point)) end
end
