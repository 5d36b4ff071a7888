-- discreet(e) -> e     an error, as err.from has it, without the names of others' apps
--
-- For answers to who doesn't see every app, and for whatever is kept with a run: who reads that may see no more
-- than its app, whoever began it.

local rows = {
  app_not_found = function(e) e.hint = "`ndctl ps` lists the apps that you may see" end,
  host_taken = function(e)
    e.message = e.message:gsub("belongs to .*", "belongs to another app")
    e.hint = "choose another host name"
  end,
  port_taken = function(e)
    e.message = e.message:gsub("belongs to .*", "is taken")
    e.hint = "choose another port"
  end,
  volume_in_use = function(e) e.message = e.message:gsub("belongs to .*", "belongs to another app") end,
}

return function(e)
  if rows[e.code] then rows[e.code](e) end
  return e
end
