#!/usr/bin/env python3
"""writer.py SOCKET DIR WRITERS RATE - writes that are acknowledged, and whether they are still there.

Each writer has an app of its own, w0, w1, ..., and gives it one tag after the other, n1, n2, ..., in
place of the one before: one transaction each. When the daemon was away, or refused a write, it looks at
what is there: the last one that was acknowledged, or one that was asked for after it; all else is lost.
It ends when DIR/stop is there, and prints {"acknowledged": n, "lost": n, "refused": {code: n}, ...}.
"""
import http.client
import json
import os
import socket
import sys
import threading
import time

PATH, DIR, WRITERS, RATE = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
lock = threading.Lock()
total = {"acknowledged": 0, "lost": 0, "outages": 0, "refused": {}}


class Connection(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(PATH)


def ask(connection, method, path, body=None):
    connection.request(method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"})
    return json.loads(connection.getresponse().read())


def stopped():
    return os.path.exists(DIR + "/stop")


def tags(app):
    """What is there, once the daemon answers again; None where it is not to."""
    while not stopped():
        try:
            answer = ask(Connection("nd"), "GET", "/apps/" + app)
            if answer["success"]:
                return [int(t[1:]) for t in answer["payload"].get("tags") or []]
        except (OSError, http.client.HTTPException, ValueError):
            pass
        time.sleep(0.005)


def look(app, acked, tried):
    found = tags(app)
    if found is None:
        return None
    if not all(n == acked or acked < n <= tried for n in found) or (acked and not found):
        with lock:
            total["lost"] += 1
        print("lost: %s has %s, acknowledged was %d" % (app, found, acked), file=sys.stderr)
    return found


def write(app):
    there = tags(app) or []
    acked = tried = max(there, default=0)
    connection = Connection("nd")
    while not stopped():
        began = time.monotonic()
        tried += 1
        try:
            answer = ask(connection, "POST", "/apps/%s/tags" % app,
                         {"add": ["n%d" % tried], "remove": ["n%d" % n for n in there]})
            if answer["success"]:
                acked, there = tried, [tried]
                with lock:
                    total["acknowledged"] += 1
            else:
                with lock:
                    total["refused"][answer["code"]] = total["refused"].get(answer["code"], 0) + 1
                there = look(app, acked, tried)
        except (OSError, http.client.HTTPException, ValueError):
            connection = Connection("nd")
            with lock:
                total["outages"] += 1
            there = look(app, acked, tried)
        if there is None:
            break
        if there:
            acked = max(there)
        time.sleep(max(0, WRITERS / RATE - (time.monotonic() - began)))


threads = [threading.Thread(target=write, args=("w%d" % i,)) for i in range(WRITERS)]
began = time.monotonic()
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
total["seconds"] = round(time.monotonic() - began, 1)
print(json.dumps(total))
