"""stranger.py PAGE RESULT DAEMON_PORT: a web server of somebody else on this machine. Prints two ports: of the page,
and of its reports, which end in the file RESULT. Once the page asked for /rebind, every further connection to its own
port leads to the daemon's: to the browser and to the daemon that is what a changed DNS entry is."""
import http.server
import os
import socket
import socketserver
import sys
import threading
import urllib.parse

page, result, daemon_port = sys.argv[1], sys.argv[2], int(sys.argv[3])
rebound = threading.Event()


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        path = urllib.parse.urlparse(self.path)
        body = b""
        if path.path == "/rebind":
            rebound.set()
        elif path.path == "/report":
            with open(result + ".part", "w", encoding="utf-8") as f:
                f.write(urllib.parse.unquote(path.query))
        elif path.path == "/":
            with open(page, "rb") as f:
                body = f.read()
        self.send_response(200)
        self.send_header("Content-Type", "text/html" if body else "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        if path.path == "/report":
            os.rename(result + ".part", result)

    def log_message(self, *_):
        pass


def pump(a, b):
    try:
        while data := a.recv(65536):
            b.sendall(data)
        b.shutdown(socket.SHUT_WR)
    except OSError:
        pass


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    may_rebind = False

    def process_request_thread(self, request, client_address):
        if not (self.may_rebind and rebound.is_set()):
            super().process_request_thread(request, client_address)
            return
        with socket.create_connection(("127.0.0.1", daemon_port)) as there:
            back = threading.Thread(target=pump, args=(there, request), daemon=True)
            back.start()
            pump(request, there)
            back.join()
        self.shutdown_request(request)


pages, reports = Server(("127.0.0.1", 0), Page), Server(("127.0.0.1", 0), Page)
pages.may_rebind = True
threading.Thread(target=reports.serve_forever, daemon=True).start()
print(pages.server_port, reports.server_port, flush=True)
pages.serve_forever()
