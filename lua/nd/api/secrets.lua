-- Secrets: what is set, in which version; never a value, which comes in encrypted and stays so.

local s = require "nd.api.schema"
local shapes = require "nd.api.shapes"
local Secrets = require "nd.service.secrets"

local scope = {
  app = s.doc(s.text, "Of this app; without it of the environment, for all its apps."),
  project = shapes.key.project, environment = shapes.key.environment,
}

local function with(more)
  for name, schema in pairs(scope) do more[name] = more[name] or schema end
  return more
end

-- Every access to a secret passes here: one entry each in the audit log, where there is one.
local function accessed(c, action, names)
  if c.d.audit and c.d.audit.secret then c.d.audit:secret(c, action, names) end
end

local function agent_key(c) return { recipient = c.d.secrets:recipient() } end

local function list(c)
  accessed(c, "list", {})
  return c.d.secrets:list(Secrets.scope(c.query))
end

local function get(c)
  accessed(c, c.query.reveal and "reveal" or "get", { c.path.name })
  return c.d.secrets:get(Secrets.scope(c.query), c.path.name, c.query.reveal)
end

local function history(c)
  accessed(c, "history", { c.path.name })
  return c.d.secrets:history(Secrets.scope(c.query), c.path.name)
end

local function sync(c)
  local names = {}
  for name in pairs(c.body.secrets) do names[#names + 1] = name end
  accessed(c, "set", names)
  return c.d.secrets:sync(Secrets.scope(c.body), c.body.secrets, c.body.copies, c.user.name), "Secrets stored"
end

local function remove(c)
  accessed(c, "remove", { c.path.name })
  return c.d.secrets:remove(Secrets.scope(c.query), c.path.name, c.user.name), "Secret removed"
end

local function push(c)
  local app = c.d.apps:get(c.body)
  c.d.runs:conflict(app)
  accessed(c, "push", {})
  return c.d.secrets:push(app, c.user.name), "Files exchanged"
end

local function rotate(c)
  accessed(c, "rotate", {})
  local count = c.d.secrets:rotate(c.user.name)
  return { recipient = c.d.secrets:recipient(), sealed = count }, "The agent has a new key"
end

return {
  { method = "GET", path = "/secrets", id = "listSecrets", permission = "secrets:read", about = "scope",
    query = with {},
    summary = "The secrets of an environment, or those an app gets: names, versions and dates, never values.",
    payload = s.list(s.ref "Secret"), handler = list },
  { method = "GET", path = "/secrets/agent-key", id = "secretsRecipient", permission = "read", about = "any",
    summary = "The agent's public key, to which secrets are encrypted before they are sent.",
    doc = "An X25519 recipient of age (age-encryption.org/v1); any age tool can encrypt to it.",
    payload = s.ref "AgentKey", handler = agent_key },
  { method = "POST", path = "/secrets/sync", id = "syncSecrets", permission = "secrets:write", about = "scope",
    body = s.ref "SecretsSync",
    summary = "Stores secrets, which come encrypted to the agent: all of them, or none.",
    doc = "Each value that isn't what it was becomes the next version; what runs keeps the version it has until "
      .. "the next deploy or restart, or /secrets/push. A ciphertext that was changed, cut off, encrypted to "
      .. "somebody else or made by another version of age is refused with a code that says which.",
    payload = s.list(s.ref "SecretVersion"), fails = { 413, 422, 507 }, handler = sync },
  { method = "POST", path = "/secrets/push", id = "pushSecrets", permission = "secrets:write", about = "body",
    body = s.ref "AppRequest",
    summary = "Gives the live release the newest versions of the secrets it has as files, without a restart.",
    doc = "Each file is exchanged by a rename. Variables can't change while a program runs: where the secret is both, "
      .. "it has the new version from the next start on; where it is a variable alone (env), from a restart of the app "
      .. "on. The answer lists those, too.",
    payload = s.list(s.ref "SecretPushed"), fails = { 404, 409, 507 }, handler = push },
  { method = "POST", path = "/secrets/rotate", id = "rotateSecrets", permission = "admin", about = "host",
    summary = "Gives the agent a new key, and seals everything stored again under it.",
    doc = "It goes on where it was when the daemon is killed in between. What was encrypted to the key before, and "
      .. "not sent yet, is refused from then on.",
    payload = s.ref "SecretsRotated", fails = { 507 }, handler = rotate },
  { method = "GET", path = "/secrets/{name}", id = "getSecret", permission = "secrets:read", about = "scope",
    query = with { reveal = s.doc(s.boolean, "Also the text that was encrypted to its owner, where there is one.") },
    summary = "What is known of a secret; never its value.", payload = s.ref "Secret", fails = { 409 },
    handler = get },
  { method = "GET", path = "/secrets/{name}/history", id = "secretHistory", permission = "secrets:read",
    about = "scope", query = with {}, summary = "All versions of a secret, the newest first.",
    payload = s.list(s.ref "Secret"),
    handler = history },
  { method = "DELETE", path = "/secrets/{name}", id = "removeSecret", permission = "secrets:write", about = "scope",
    query = with {},
    summary = "Erases all versions of a secret.",
    doc = "409 `secret_in_use` while a live release has it, or a run is under way that deploys it or may go back to "
      .. "it. Going back to a release that had it is no longer possible afterwards.",
    payload = s.ref "Secret", fails = { 409, 507 }, handler = remove },
}
