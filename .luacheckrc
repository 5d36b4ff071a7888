std = "lua54"
max_line_length = 100
-- What a recipe sees without `require` (lua/nd/recipe/).
files["recipes/**/*.lua"] = {
  read_globals = {
    "recipe", "param", "app", "docker", "health", "http", "time", "task", "pivot", "undo",
    "log", "fail", "approval", "uuid", "now", "continue_as", "json", "effect",
  },
}
files["tests/**/*_spec.lua"] = { std = "lua54+busted" }
files["recipes/**/spec.lua"] = { std = "lua54+busted" }
