"""Every operation of /openapi.json, asked by every subject about his own and about somebody else's app, and
what came of it against what the subject's rights say. The rights are worked out here anew, from the documented
rules, so that daemon and test can't share a mistake.

matrix.py PORT ADMIN-TOKEN FIXTURE.json
FIXTURE: {"own": {name, run, job, domain}, "foreign": {...}}, both in default/production.
"""
import base64
import http.client
import json
import os
import sys

PORT, ADMIN, FIXTURE = int(sys.argv[1]), sys.argv[2], json.load(open(sys.argv[3]))
REFUSED = {"unauthorized", "forbidden", "app_not_found", "run_not_found", "job_not_found", "route_not_found",
           "too_many_guesses"}
BRINGS = {
    "read": {"read"}, "deploy": {"deploy", "read"}, "secrets:read": {"secrets:read", "read"},
    "secrets:write": {"secrets:write", "secrets:read", "read"}, "audit": {"audit"}, "people": {"people"}}
BUILT_IN = {"admin": ["admin"], "deployer": ["deploy", "secrets:write"], "viewer": ["read"]}

connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)


def ask(method, path, token=None, body=None, websocket=False):
    """-> status, the decoded body or {}"""
    global connection
    headers = {"Host": "127.0.0.1:%d" % PORT}
    if token:
        headers["Authorization"] = "Bearer " + token
    if websocket:
        headers.update({"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
                        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode()})
    if body is not None:
        headers["Content-Type"] = "application/json"
        body = json.dumps(body)
    for attempt in (1, 2):
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            if answer.status == 101:
                connection.close()
                connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
                return 101, {}
            text = answer.read()
            break
        except (http.client.HTTPException, OSError):
            connection.close()
            connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
            if attempt == 2:
                raise
    try:
        return answer.status, json.loads(text)
    except ValueError:
        return answer.status, {}


def must(method, path, body=None, token=ADMIN):
    status, answer = ask(method, path, token, body)
    assert status == 200, (method, path, status, answer)
    return answer["payload"]


# ---- rights ----

def covers(grant, permission, where):
    """where: an app's (project, environment, name), "some" or "host" """
    name, _, scope = grant.partition("@")
    if name != "admin" and permission not in BRINGS.get(name, ()):
        return False
    if where == "some" or not scope:
        return True
    if where == "host":
        return scope == "*/*/*"
    return all(wanted in ("*", got) for wanted, got in zip(scope.split("/"), where))


def allows(rights, permission, where):
    return bool(rights) and all(any(covers(g, permission, where) for g in layer) for layer in rights)


# ---- subjects: name -> (token, rights, kind) ----

def subjects():
    out = {"nobody": (None, None, None), "a stranger": ("nd_unknown", None, None)}

    def token(name, role, grants=None, **limits):
        made = must("POST", "/tokens", dict(name=name, role=role, **limits))
        rights = [grants or BUILT_IN[role]]
        if limits:
            rights.append(["admin@%s/%s/%s" % tuple(limits.get(k, "*") for k in ("project", "environment", "app"))])
        out["token " + name] = (made["token"], rights, "token")

    def person(name, grants):
        if name not in BUILT_IN:
            must("POST", "/roles", {"name": name, "permissions": grants})
        invited = must("POST", "/team", {"email": name + "@example.com", "role": name})
        session = must("POST", "/login/invitation", {"invitation": invited["invitation"],
                                                     "password": "correct horse battery"}, None)
        out["session " + name] = (session["access_token"], [grants], "session")

    for role in BUILT_IN:
        token("m-" + role, role)
    token("m-own", "deployer", app="own")
    token("m-elsewhere", "deployer", environment="staging")
    token("m-own-admin", "admin", app="own", environment="production", project="default")
    person("viewer", BUILT_IN["viewer"])
    person("stager", ["read", "deploy@*/*/own"])
    person("scoped", ["read@default/production/own"])
    person("elsewhere", ["deploy@*/staging/*", "read@other/*/*"])
    person("keeper", ["secrets:write@*/*/own"])
    person("auditor", ["audit"])
    person("lead", ["people", "read"])
    must("POST", "/roles", {"name": "passing", "permissions": ["admin"]})
    token("m-custom", "passing", ["deploy@*/production/own"])
    must("POST", "/roles", {"name": "passing", "permissions": ["deploy@*/production/own"], "replace": True})
    token("m-gone", "admin")
    must("DELETE", "/tokens/m-gone")
    out["a token taken back"] = (out.pop("token m-gone")[0], None, None)
    return out


# ---- operations ----

document = ask("GET", "/openapi.json")[1]
schemas = document["components"]["schemas"]
# What they give has to be the asker's own: a role that may read.
GIVES = {"createToken": "read", "addPerson": "read", "setRole": "read"}
BODIES = {"createToken": {"name": "m-new", "role": "viewer"}, "addPerson": {"email": "new@example.com", "role": "viewer"},
          "setRole": {"name": "m-new", "permissions": ["read"]},
          "loginRegistry": {"host": "localhost:9", "username": "u", "password": "p"},
          "configureProxy": {"app_name": "", "domain": "new.example.com"},
          "syncSecrets": {"secrets": {"A": "no age"}}}
QUERIES = {"gc": "plan=true", "deploy": "plan=true", "swap": "plan=true", "rollback": "plan=true", "scale": "plan=true",
           "startRun": "plan=true"}
LAST = ["destroyApp", "upgrade"]  # these change what the others need
# Whose sessions they would end or whose passwords they would try; `self` is asked by whoami.
SKIPPED = {"logout", "setPassword"}


def body_of(operation, target):
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if not content:
        return None
    name = content["schema"].get("$ref", "").rsplit("/", 1)[-1]
    body = dict(BODIES.get(operation["operationId"]) or schemas.get(name, {}).get("example") or {})
    properties = schemas.get(name, {}).get("properties", {})
    for field in ("app_name", "app"):
        if field in properties and name != "TokenRequest":
            body[field] = target["name"]
    return body


def names_app(operation):
    return operation.get("x-about") in ("query", "scope") and any(p["name"] == "app" for p in operation["parameters"])


def target_of(path, operation, target):
    """The path with its names filled in, and the query"""
    names = {"app": target["name"], "domain": target["domain"], "name": "nobody", "host": "nobody.example",
             "email": "nobody@example.com", "id": target["job"] if path.startswith("/jobs") else target["run"]}
    for name, value in names.items():
        path = path.replace("{%s}" % name, str(value))
    query = [QUERIES[operation["operationId"]]] if operation["operationId"] in QUERIES else []
    if target["ask"] and names_app(operation):
        query.append("app=" + target["name"])
    return path + ("?" + "&".join(query) if query else "")


def expected(operation, rights, kind, target):
    permission, about = operation["x-permission"], operation.get("x-about")
    if permission == "none":
        return True
    if rights is None:
        return False
    given = GIVES.get(operation["operationId"])
    if given and not allows(rights, given, "host"):
        return False
    if permission == "self" or operation.get("x-own") and kind == "session":
        return True
    whole = about == "scope" and not target["ask"]  # an environment
    key = ("default", "production", "*" if whole else target["name"])
    if about == "query" and not (target["ask"] and names_app(operation)) or about == "any":
        where = "some"
    else:
        where = "host" if about == "host" else key
    return allows(rights, permission, where)


def check(known):
    asked, too_much, too_little = 0, [], []
    operations = [(path, method.upper(), operation) for path, methods in document["paths"].items()
                  for method, operation in methods.items() if operation["operationId"] not in SKIPPED]
    operations.sort(key=lambda o: (o[2]["operationId"] in LAST, o[2]["operationId"]))
    for path, method, operation in operations:
        about = operation.get("x-about")
        assert operation["x-permission"] in ("none", "self") or about, operation["operationId"]
        targets = [dict(FIXTURE[which], ask=True) for which in ("foreign", "own")]
        if about == "query" or about == "scope" and names_app(operation):
            targets.append(dict(FIXTURE["own"], ask=False))
        elif about in (None, "host", "any"):
            targets = targets[1:]
        for target in targets:
            for who, (token, rights, kind) in sorted(known.items(), key=lambda s: allows(s[1][1] or [], "admin", "host")):
                wanted = expected(operation, rights, kind, target)
                if operation["operationId"] in LAST and wanted:
                    continue  # `make_room` asks these
                for websocket in ([False, True] if operation.get("x-frames") else [False]):
                    status, answer = ask(method, target_of(path, operation, target), token, body_of(operation, target),
                                         websocket)
                    asked += 1
                    allowed = answer.get("code") not in REFUSED and status not in (401, 403, 429)
                    if operation["x-permission"] == "none":
                        allowed = status != 403
                    elif about == "query" and operation["x-permission"] == "read" and wanted and status == 403:
                        allowed = True  # the exposition, which is of all apps: looked at by test_people
                    if allowed != wanted:
                        (too_much if allowed else too_little).append("%s %s %s about %s: %s %s" % (
                            who, operation["operationId"], "(WebSocket)" if websocket else "", target["name"], status,
                            answer.get("code")))
    return asked, len(operations), too_much, too_little


if __name__ == "__main__":
    known = subjects()
    asked, operations, too_much, too_little = check(known)
    for line in too_much:
        print("unexpectedly allowed: " + line)
    for line in too_little:
        print("unexpectedly refused: " + line)
    print("%d operations, %d subjects, %d requests: %d unexpectedly allowed, %d unexpectedly refused" % (
        operations, len(known), asked, len(too_much), len(too_little)))
    sys.exit(1 if too_much or too_little else 0)
