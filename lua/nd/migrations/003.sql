-- Credentials for registries, sealed by the agent's key (lua/nd/service/seal.lua).

CREATE TABLE registry (
  host       TEXT PRIMARY KEY,  -- "ghcr.io", "registry.example.com:5000", "docker.io"
  username   TEXT NOT NULL,     -- for people; what Docker gets is sealed
  sealed     TEXT NOT NULL,     -- base64 of a seal of Docker's AuthConfig
  created_at INTEGER NOT NULL   -- UTC ms
) STRICT;
