std = "lua54"
max_line_length = 120
-- What a recipe sees without `require` (lua/nd/recipe/).
files["recipes/**/*.lua"] = {
  read_globals = {
    "recipe", "param", "app", "docker", "health", "http", "time", "task", "pivot", "undo",
    "log", "fail", "uuid", "now", "continue_as", "json", "approval",
  },
}
files["tests/fault/tour.lua"] = files["recipes/**/*.lua"]
-- Sets those globals.
files["lua/nd/recipe/main.lua"] = {
  globals = { "_G", "require", "time", "now", "log", "print", "fail" },
}
-- Sets what LuaJIT lacks.
files["lua/nd/recipe/luajit.lua"] = { std = "luajit", globals = { "math", "table", "rawlen" } }
files["tests/**/*_spec.lua"] = { std = "lua54+busted" }
files["tests/e2e/**/*.lua"] = { std = "lua54+busted" }
files["tests/bench/*.lua"] = { std = "lua54+busted" }
files["recipes/**/spec.lua"] = { std = "lua54+busted" }
