-- The team: people and roles.

local s = require "nd.api.schema"

local function add(c)
  return c.d.people:add(c.body.email, c.body.role, c.user), "Invited; the code is shown this once"
end

local function invite(c)
  return c.d.people:invite(c.path.email, c.user), "Invited; the code is shown this once"
end

local function set_role(c)
  return c.d.people:set_person_role(c.path.email, c.body.role, c.user), "Role changed"
end

local function remove(c) return c.d.people:remove(c.path.email, c.user), "Removed" end

local function save_role(c)
  return c.d.people:set_role(c.d.apps.check_name("a role", c.body.name), c.body.permissions, c.body.replace, c.user),
    "Role saved"
end

return {
  { method = "GET", path = "/team", id = "listPeople", permission = "people", about = "host",
    summary = "Everybody, with role and state.", payload = s.list(s.ref "Person"),
    handler = function(c) return c.d.people:list() end },
  { method = "POST", path = "/team", id = "addPerson", permission = "people", about = "host",
    summary = "Takes somebody in; the answer has his invitation, this once.",
    doc = "The code is good once and for 24 h: /login/invitation takes it, with the password he chooses.",
    body = s.ref "PersonRequest", payload = s.ref "Person", fails = { 409, 507 }, handler = add },
  { method = "POST", path = "/team/{email}/invite", id = "invitePerson", permission = "people", about = "host",
    summary = "Another invitation, for who lost his or forgot his password; the one before is void.",
    payload = s.ref "Person", fails = { 507 }, handler = invite },
  { method = "POST", path = "/team/{email}/role", id = "setPersonRole", permission = "people", about = "host",
    summary = "Gives somebody another role, at once.", body = s.ref "PersonRoleRequest", payload = s.ref "Person",
    fails = { 507 }, handler = set_role },
  { method = "DELETE", path = "/team/{email}", id = "removePerson", permission = "people", about = "host",
    summary = "Removes somebody with his sessions and tokens.",
    doc = "What he has open is closed within seconds; a run that he began is refused its next step, and goes back.",
    payload = s.ref "Person", fails = { 507 }, handler = remove },
  { method = "GET", path = "/roles", id = "listRoles", permission = "people", about = "host",
    summary = "The roles, built in and not.", payload = s.list(s.ref "Role"),
    handler = function(c) return c.d.people:roles() end },
  { method = "POST", path = "/roles", id = "setRole", permission = "people", about = "host",
    summary = "Makes a role, or changes one.",
    doc = "Nobody makes a role that may more than he may. A change is felt at once by all who have it.",
    body = s.ref "RoleRequest", payload = s.ref "Role", fails = { 404, 409, 507 }, handler = save_role },
  { method = "DELETE", path = "/roles/{name}", id = "removeRole", permission = "people", about = "host",
    summary = "Removes a role that nobody has.", payload = s.ref "Role", fails = { 409, 507 },
    handler = function(c) return c.d.people:remove_role(c.path.name, c.user), "Role removed" end },
}
