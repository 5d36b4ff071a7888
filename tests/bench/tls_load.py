#!/usr/bin/env python3
"""Requests over TLS to one host at a steady rate, counted one by one.

    tls_load.py PORT HOST CA_FILE RATE     until SIGTERM; prints "{}" when all clients are under way, and at
                                           the end a line of JSON:
      ok         answered with 200
      failed     everything else: refused, reset, cut off, a certificate that isn't trusted
      closed     kept connections that the server closed between two requests (no request was lost)
      raced      requests on a kept connection that was closed in the instant they were sent, before a
                 byte of an answer: HTTP says that a client sends them again (RFC 9112, 9.3.1); these do
      serials    how many different certificates were seen

Half of the clients keep their connections, half open one for each request.
"""
import asyncio
import json
import signal
import ssl
import sys

CLIENTS = 8
REQUEST = "GET / HTTP/1.1\r\nHost: {}\r\nConnection: {}\r\n\r\n"


class Load:
    def __init__(self, port, host, ca, rate):
        self.port, self.host, self.rate = port, host, rate
        self.context = ssl.create_default_context(cafile=ca)
        self.counts = dict(ok=0, failed=0, closed=0, raced=0)
        self.serials, self.errors, self.ended = set(), {}, False

    async def connect(self):
        reader, writer = await asyncio.wait_for(asyncio.open_connection(
            "127.0.0.1", self.port, ssl=self.context, server_hostname=self.host), 10)
        self.serials.add(writer.get_extra_info("peercert")["serialNumber"])
        return reader, writer

    async def answer(self, reader):
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        await asyncio.wait_for(reader.readexactly(length), 10)
        return head.split(b" ")[1] == b"200", b"connection: close" in head.lower()

    def fail(self, why):
        self.counts["failed"] += 1
        self.errors[str(why)] = self.errors.get(str(why), 0) + 1

    async def once(self):
        writer = None
        try:
            reader, writer = await self.connect()
            writer.write(REQUEST.format(self.host, "close").encode())
            good, _ = await self.answer(reader)
            if good:
                self.counts["ok"] += 1
            else:
                self.fail("status")
        except Exception as e:  # whatever it is, the request is lost
            self.fail(repr(e))
        finally:
            if writer:
                writer.close()

    async def kept(self, kept):
        """One request on the connection that is kept, or on a new one; -> what to keep."""
        if kept and kept[0].at_eof():
            self.counts["closed"] += 1
            kept[1].close()
            kept = None
        reused = kept is not None
        try:
            reader, writer = kept or await self.connect()
            writer.write(REQUEST.format(self.host, "keep-alive").encode())
            good, last = await self.answer(reader)
            if good:
                self.counts["ok"] += 1
            else:
                self.fail("status")
            if not last:
                return reader, writer
            writer.close()
        except (asyncio.IncompleteReadError, ConnectionError) as e:
            if reused and not getattr(e, "partial", b""):
                self.counts["raced"] += 1
                return await self.kept(None)
            self.fail(repr(e))
        except Exception as e:
            self.fail(repr(e))
        return None

    async def client(self, number):
        loop, gap = asyncio.get_running_loop(), CLIENTS / self.rate
        at, connection = loop.time() + number * gap / CLIENTS, None
        while not self.ended:
            await asyncio.sleep(max(0, at - loop.time()))
            at = max(at + gap, loop.time() - 1)
            if number % 2:
                await self.once()
            else:
                connection = await self.kept(connection)

    async def run(self):
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.end)
        clients = asyncio.gather(*(self.client(n) for n in range(CLIENTS)))
        while self.counts["ok"] < 2 * CLIENTS and not self.ended:
            await asyncio.sleep(0.01)
        print("{}", flush=True)
        await clients
        print(json.dumps({**self.counts, "serials": len(self.serials), "errors": self.errors}))

    def end(self):
        self.ended = True


if __name__ == "__main__":
    asyncio.run(Load(int(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4])).run())
