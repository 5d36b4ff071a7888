-- Registries: credentials for private images, stored sealed and never shown.

local s = require "nd.api.schema"

return {
  { method = "GET", path = "/registries", id = "listRegistries", permission = "admin", about = "host",
    summary = "The registries that credentials are stored for.", payload = s.list(s.ref "Registry"),
    handler = function(c) return c.d.registries:list() end },
  { method = "POST", path = "/registries", id = "loginRegistry", permission = "admin", about = "host",
    summary = "Checks credentials with their registry and stores them for pulls.",
    doc = "What was stored for the host before is replaced. A password that the registry refuses is a 403, "
      .. "`registry_denied`, and nothing changes.",
    body = s.ref "RegistryLogin", payload = s.ref "Registry", fails = { 502, 504, 507 },
    handler = function(c)
      return c.d.registries:login(c.body.host, c.body.username, c.body.password), "Credentials stored"
    end },
  { method = "DELETE", path = "/registries/{host}", id = "logoutRegistry", permission = "admin", about = "host",
    summary = "Forgets the credentials of a registry.", payload = s.ref "Registry", fails = { 507 },
    handler = function(c) return c.d.registries:logout(c.path.host), "Credentials forgotten" end },
}
