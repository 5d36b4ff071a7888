"""What test_people does that a shell is too slow or too coarse for, over TCP to the daemon at PORT.

people.py PORT revoke TOKEN COMMAND...   opens a WebSocket with the token, runs the command, and prints how many ms
                                         after its end requests are refused and the WebSocket is closed, and with
                                         which code
people.py PORT guess COUNT EMAIL         guesses passwords from 127.0.0.1 and 127.0.0.2; prints how many were
                                         answered 401 and 429, and the slowest /healthz meanwhile, in ms
people.py PORT timing EMAIL              ms of a wrong password of EMAIL and of nobody, medians
people.py PORT login ADDRESS EMAIL PASSWORD     from this address; prints the status
people.py PORT forge TOKEN               the token, made into others in every way that is known; prints those
                                         that were taken, and how many there were
"""
import base64
import hashlib
import hmac
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time

PORT = int(sys.argv[1])


def connect(source="127.0.0.1"):
    return http.client.HTTPConnection("127.0.0.1", PORT, timeout=60, source_address=(source, 0))


def ask(connection, method, path, token=None, body=None):
    headers = {"Authorization": "Bearer " + token} if token else {}
    if body is not None:
        headers["Content-Type"] = "application/json"
    connection.request(method, path, json.dumps(body) if body is not None else None, headers)
    answer = connection.getresponse()
    answer.read()
    return answer


def login(connection, email, password):
    return ask(connection, "POST", "/login", None, {"email": email, "password": password})


def websocket(path, token):
    s = socket.create_connection(("127.0.0.1", PORT), timeout=30)
    s.sendall(("GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAuthorization: Bearer %s\r\nUpgrade: websocket\r\n"
               "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n" % (
                   path, PORT, token, base64.b64encode(os.urandom(16)).decode())).encode())
    head = b""
    while b"\r\n\r\n" not in head:
        head += s.recv(1)
    assert b" 101 " in head, head
    return s


def read_exactly(s, n):
    data = b""
    while len(data) < n:
        part = s.recv(n - len(data))
        if not part:
            return None
        data += part
    return data


def until_closed(s):
    """-> the close frame's code; 1006 where the connection just ended"""
    while True:
        head = read_exactly(s, 2)
        if not head:
            return 1006
        length = head[1] & 127
        if length == 126:
            length = int.from_bytes(read_exactly(s, 2), "big")
        data = read_exactly(s, length)
        if head[0] & 15 == 8:
            return int.from_bytes(data[:2], "big")


def revoke(token, *command):
    s, closed = websocket("/ws/events", token), {}

    def watch():
        closed["code"] = until_closed(s)
        closed["at"] = time.monotonic()

    watcher = threading.Thread(target=watch)
    watcher.start()
    connection = connect()
    assert ask(connection, "GET", "/status", token).status == 200
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    done = time.monotonic()
    while ask(connection, "POST", "/scale?plan=true", token, {"app_name": "shop", "replicas": 2}).status not in (401, 403):
        assert time.monotonic() < done + 30
    refused = time.monotonic()
    watcher.join(30)
    print("%d %d %s" % ((refused - done) * 1000, max(0, closed.get("at", done + 99) - done) * 1000, closed.get("code")))


def guess(count, email):
    seen, slowest, stop, lock = {}, [0.0], threading.Event(), threading.Lock()

    def health():
        connection = connect("127.0.0.9")
        while not stop.is_set():
            began = time.monotonic()
            ask(connection, "GET", "/healthz")
            slowest[0] = max(slowest[0], time.monotonic() - began)

    def guesser(source, share):
        connection = connect(source)
        for n in range(share):
            answer = login(connection, email if n % 2 else "user%d@example.com" % n, "a guess, number %d" % n)
            with lock:
                seen[answer.status] = seen.get(answer.status, 0) + 1
            if answer.status == 429:
                assert int(answer.headers["Retry-After"]) >= 1

    watcher = threading.Thread(target=health)
    watcher.start()
    guessers = [threading.Thread(target=guesser, args=("127.0.0.%d" % (1 + n % 2), int(count) // 4)) for n in range(4)]
    for g in guessers:
        g.start()
    for g in guessers:
        g.join()
    stop.set()
    watcher.join()
    print("%d %d %d" % (seen.pop(401, 0), seen.pop(429, 0), slowest[0] * 1000))
    assert not seen, seen


def timing(email):
    took = {}
    for n in range(6):
        for who in (email, "nobody@example.com"):
            connection = connect("127.0.%d.%d" % (3 if who == email else 4, n + 1))
            began = time.monotonic()
            assert login(connection, who, "not the password").status == 401
            took.setdefault(who, []).append((time.monotonic() - began) * 1000)
    print("%d %d" % tuple(statistics.median(took[who]) for who in (email, "nobody@example.com")))


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def forge(token):
    head, body, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))

    def made(header, changes=None, key=None, sign=None):
        text = b64(json.dumps(header).encode()) + "." + b64(json.dumps(dict(claims, **(changes or {}))).encode())
        if sign is not None:
            return text + "." + sign
        return text + "." + b64(hmac.new(key or b"", text.encode(), hashlib.sha256).digest())

    good = {"alg": "HS256", "typ": "at+jwt"}
    jwk = {"kty": "oct", "k": b64(b"k" * 32), "kid": "mine"}
    forged = [made({"alg": a, "typ": "at+jwt"}, sign="") for a in ("none", "None", "NONE", "nOnE", "", "HS256")]
    forged += [made({"alg": a, "typ": "at+jwt"}, sign=signature) for a in ("RS256", "ES256", "EdDSA", "HS512", "PS256")]
    forged += [made(good, key=k) for k in (b"", b"secret", b"\0" * 32, claims["sid"].encode(), claims["iss"].encode())]
    forged += [made(dict(good, **more), key=b"k" * 32) for more in (
        {"jwk": jwk}, {"jku": "http://127.0.0.1:%d/keys" % PORT}, {"kid": "/dev/null"}, {"kid": "' OR 1=1 --"},
        {"x5u": "file:///etc/passwd"}, {"x5c": ["MIIB"]}, {"crit": ["exp"]}, {"b64": False}, {"zip": "DEF"})]
    forged += [made(good, changes, sign=signature) for changes in (
        {"sub": "root@example.com"}, {"exp": 9999999999}, {"sid": "A" * 22}, {"iss": "x"}, {"aud": "x"}, {"jti": 2})]
    forged += [token[:n] for n in range(0, len(token), 9)] + [token + "A", token + ".", token + "." + signature,
               head + "." + body + ".", "." + body + "." + signature, "..", "a.b.c", token * 8, "A" * 7000 + ".A.A",
               token.replace(".", "%2E"), head + "." + body + "." + signature[:-2] + "AA"]
    taken, connection = [], connect("127.0.0.77")
    for text in forged:
        answer = ask(connection, "GET", "/whoami", text) if text else None
        if answer is not None and answer.status not in (401, 429, 400, 431):
            taken.append("%s %s" % (answer.status, text[:60]))
    assert ask(connection, "GET", "/whoami", token).status == 200
    print("%d taken of %d %s" % (len(taken), len(forged), " ".join(taken)))


def login_from(address, email, password):
    print(login(connect(address), email, password).status)


{"revoke": revoke, "guess": guess, "timing": timing, "login": login_from, "forge": forge}[sys.argv[2]](*sys.argv[3:])
