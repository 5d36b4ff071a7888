#!/usr/bin/env python3
"""slow_reader.py SOCKET QUERY LINES: follows /ws/logs?QUERY, prints "ready", reads nothing until a
line comes on stdin, then reads on until the lines it got and those it was told to have missed are
LINES together. Prints "got dropped largest-frame"."""
import base64
import json
import os
import socket
import struct
import sys

path, query, wanted = sys.argv[1], sys.argv[2], int(sys.argv[3])
s = socket.socket(socket.AF_UNIX)
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
s.connect(path)
s.sendall((f"GET /ws/logs?{query} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
           "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "
           f"{base64.b64encode(os.urandom(16)).decode()}\r\n\r\n").encode())
f = s.makefile("rb")
assert b"101" in f.readline(), "no upgrade"
while f.readline() != b"\r\n":
    pass
print("ready", flush=True)
sys.stdin.readline()
s.settimeout(20)
got = dropped = largest = 0
while got + dropped < wanted:
    head = f.read(2)
    length = head[1] & 127
    if length == 126:
        length, = struct.unpack(">H", f.read(2))
    elif length == 127:
        length, = struct.unpack(">Q", f.read(8))
    data = f.read(length)
    if head[0] & 15 != 1:
        continue
    largest = max(largest, length)
    frames = json.loads(data)
    for frame in frames if isinstance(frames, list) else [frames]:
        dropped += frame.get("dropped", 0)
        got += "line" in frame
print(got, dropped, largest)
