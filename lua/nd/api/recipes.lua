-- Recipes: listed, shown, checked.

local s = require "nd.api.schema"

return {
  { method = "GET", path = "/recipes", id = "listRecipes", permission = "read", about = "any",
    summary = "Every recipe that can be run by name.", payload = s.list(s.ref "Recipe"),
    handler = function(c) return c.d.recipes:list() end },
  { method = "GET", path = "/recipes/{name}", id = "showRecipe", permission = "read", about = "any",
    summary = "One recipe: parameters, README, source.", fails = { 400, 422, 504 }, payload = s.ref "Recipe",
    handler = function(c) return c.d.recipes:show(c.path.name) end },
  { method = "POST", path = "/recipes/check", id = "checkRecipe", permission = "read", about = "any", audit = false,
    summary = "Loads a recipe in a worker and says what is wrong with it, or what it takes.",
    doc = "Nothing is run and nothing is kept. What is wrong is a 400 with the file and line.",
    body = s.ref "RecipeFiles", payload = s.ref "Recipe", fails = { 422, 504 },
    handler = function(c)
      local bundle = c.d.recipes:bundle { name = c.body.name or "recipe", files = c.body.files }
      local header = c.d.recipes:header(bundle)
      return { name = bundle.name, summary = header.summary, params = header.params,
        needs = header.needs, gap = header.gap, engine = header.engine }, "the recipe loads"
    end },
}
