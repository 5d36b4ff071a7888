#!/usr/bin/env python3
"""timing.py - what a shell can't time: starts, commands and requests, in fractions of a millisecond.

  timing.py start SOCKET LOG COMMAND...   starts a daemon and asks for /healthz until it answers; prints
                                          "ms pid"
  timing.py commands N COMMAND...         runs the commands (each one word for a shell) in turn, N times;
                                          prints each one's median in ms, a line a command
  timing.py asks N SOCKET SOCKET PATH...  asks both daemons for each path in turn, N times, %d in it being a
                                          number of 0 to 9; a line a path: medians in ms of each, the median
                                          of their ratios, CPU in us a request of each
"""
import glob
import os
import socket
import statistics
import subprocess
import sys
import time


def ms_since(began):
    return (time.perf_counter() - began) * 1000


def connect(path):
    s = socket.socket(socket.AF_UNIX)
    s.connect(path)
    return s


def ask(s, target):
    s.sendall(b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % target.encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        more = s.recv(1 << 20)
        if not more:
            raise EOFError
        answer += more
    head, body = answer.split(b"\r\n\r\n", 1)
    length = int([l for l in head.lower().split(b"\r\n") if l.startswith(b"content-length:")][0].split(b":")[1])
    while len(body) < length:
        body += s.recv(1 << 20)
    if b" 200 " not in head.split(b"\r\n")[0]:
        sys.exit("%s: %s" % (target, body[:300].decode()))
    return body


def start(path, log, command):
    out = open(log, "ab")
    began = time.perf_counter()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
    while ms_since(began) < 30000:
        try:
            ask(connect(path), "/healthz")
            print("%.1f %d" % (ms_since(began), process.pid))
            return
        except (OSError, EOFError):
            if process.poll() is not None:
                break
            time.sleep(0.0005)
    sys.exit("it doesn't answer: see %s" % log)


def commands(count, lines):
    times = [[] for _ in lines]
    for _ in range(count):
        for i, line in enumerate(lines):
            began = time.perf_counter()
            subprocess.run(line.split(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
            times[i].append(ms_since(began))
    for t in times:
        print("%.2f" % statistics.median(t))


def peer(s):
    return int.from_bytes(s.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[:4], "little")


def cpu(pid):
    """ns that all its threads have run"""
    return sum(int(open(f).read().split()[0]) for f in glob.glob("/proc/%d/task/*/schedstat" % pid))


def asks(count, sockets, paths):
    doors = [connect(path) for path in sockets]
    for path in paths:
        times, spent = [[], []], [0, 0]
        for n in range(count):
            for i, door in enumerate(doors):
                before, began = cpu(peer(door)), time.perf_counter()
                ask(door, path.replace("%d", str(n % 10)))
                times[i].append(ms_since(began))
                spent[i] += cpu(peer(door)) - before
        ratio = statistics.median(b / a for a, b in zip(*times))
        medians = [statistics.median(t) for t in times]
        print("%.3f %.3f %.2f %.0f %.0f" % (*medians, ratio, *(c / count / 1000 for c in spent)))


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    if what == "start":
        start(rest[0], rest[1], rest[2:])
    elif what == "commands":
        commands(int(rest[0]), rest[1:])
    elif what == "asks":
        asks(int(rest[0]), rest[1:3], rest[3:])
    else:
        sys.exit(__doc__)
