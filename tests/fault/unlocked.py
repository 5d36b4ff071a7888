#!/usr/bin/env python3
"""unlocked.py PID FILE: how many of the lines of FILE, which begin alike, are in memory of the process that isn't
locked."""
import os
import re
import sys

pid, path = sys.argv[1], sys.argv[2]
with open(path, "rb") as lines:
    values = {line.rstrip(b"\n") for line in lines if line.strip()}
begin = re.compile(re.escape(os.path.commonprefix(list(values))) + rb"[\w-]+") if values else None
ranges, here, used = [], None, False
with open(f"/proc/{pid}/smaps") as maps:
    for line in maps:
        head = re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+)", line)
        if head:
            here = (int(head[1], 16), int(head[2], 16), head[3])
        elif line.startswith("Rss:"):
            used = line.split()[1] != "0"
        elif line.startswith("VmFlags:") and " lo" not in line and used and here[2].startswith("rw"):
            ranges.append(here[:2])
found = set()
with open(f"/proc/{pid}/mem", "rb", 0) as memory:
    for start, end in ranges if begin else []:
        try:
            memory.seek(start)
            data = memory.read(end - start)
        except OSError:
            continue
        for match in begin.finditer(data):
            found.update(value for value in values if match[0].startswith(value))
print(len(found))
