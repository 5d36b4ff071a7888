-- Certificates: what hosts show, the user's own, new ones before their time.

local s = require "nd.api.schema"

local fails = { 404, 409, 502, 504, 507 }

return {
  { method = "GET", path = "/certs", id = "listCertificates", permission = "read", about = "host",
    summary = "All certificates: of hosts with TLS, and what is kept beside.", payload = s.list(s.ref "Certificate"),
    handler = function(c) return c.d.certs:list() end },
  { method = "GET", path = "/certs/{domain}", id = "showCertificate", permission = "read", about = "host",
    summary = "One certificate, by what it is kept as or by a host that shows it.", payload = s.ref "Certificate",
    handler = function(c) return c.d.certs:show(c.path.domain) end },
  { method = "POST", path = "/certs/import", id = "importCertificate", permission = "admin", about = "host",
    summary = "Takes a certificate of your own, and shows it for the hosts with tls = auto that it covers.",
    doc = "The key must be the certificate's, the names cover the domain, each certificate be issued by the one "
      .. "after it, and none be expired or weak. It replaces what was kept for the domain, unless a proxy refuses it "
      .. "(proxy_refused). A key is never answered.",
    body = s.ref "CertImport", payload = s.ref "Certificate", fails = fails,
    handler = function(c)
      return c.d.certs:import(c.body.domain, c.body.certificate, c.body.key), "Certificate imported"
    end },
  { method = "POST", path = "/certs/request", id = "requestCertificate", permission = "admin", about = "host",
    summary = "Asks the ACME authority by a TXT record (dns-01), for a wildcard, and keeps the certificate renewed.",
    doc = "The recipe is run for the app, with what is to be made or removed, and its end waited for.",
    body = s.ref "CertRequest", payload = s.ref "Certificate", fails = fails,
    handler = function(c) return c.d.certs:order(c.body.domain, c.body), "Certificate issued" end },
  { method = "POST", path = "/certs/rotate", id = "rotateCertificate", permission = "admin", about = "host",
    summary = "Has a new certificate made now; the old one is shown until it is there.",
    body = s.ref "CertName", payload = s.ref "Certificate", fails = fails,
    handler = function(c) return c.d.certs:rotate(c.body.domain), "Certificate rotated" end },
  { method = "DELETE", path = "/certs/{domain}", id = "removeCertificate", permission = "admin", about = "host",
    summary = "Removes a certificate that is kept, and its key; its hosts get one as hosts without one do.",
    payload = s.ref "Certificate", fails = fails,
    handler = function(c) return c.d.certs:remove(c.path.domain), "Certificate removed" end },
}
