"""Stands for PagerDuty, Slack and a mail server, and keeps what they were sent."""

import http.server
import json
import socketserver
import threading
import time
from email import message_from_string


class Sink:
    """`received`: (when, service, what), service being `pagerduty`, `slack` or `email`."""

    def __init__(self):
        self.received = []
        sink = self

        class Http(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                sink.keep(self.path.strip("/").split("/")[0], body)
                self.send_response(202 if "pagerduty" in self.path else 200)
                self.end_headers()
                self.wfile.write(b'{"status":"success"}')

            def log_message(self, *_):
                pass

        class Smtp(socketserver.StreamRequestHandler):
            def say(self, line):
                self.wfile.write(line.encode() + b"\r\n")

            def handle(self):
                self.say("220 sink")
                while line := self.rfile.readline().decode().strip():
                    verb = line.split()[0].upper()
                    if verb == "DATA":
                        self.say("354 go on")
                        lines = []
                        while (text := self.rfile.readline().decode().rstrip("\r\n")) != ".":
                            lines.append(text)
                        mail = message_from_string("\n".join(lines))
                        sink.keep("email", {"to": mail["To"], "subject": mail["Subject"]})
                    self.say("221 bye" if verb == "QUIT" else "250 fine")
                    if verb == "QUIT":
                        return

        self.servers = []
        for server, handler in [(http.server.ThreadingHTTPServer, Http), (socketserver.ThreadingTCPServer, Smtp)]:
            server = server(("127.0.0.1", 0), handler)
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, daemon=True).start()
            self.servers.append(server)
        self.http, self.smtp = [server.server_address[1] for server in self.servers]

    def keep(self, service, what):
        self.received.append((time.monotonic(), service, what))

    def named(self, text):
        """What came that mentions `text`, as (when, channel, what); a Slack channel or the service's name."""
        channel = lambda service, what: what["channel"] if service == "slack" else service
        return [(when, channel(service, what), what) for when, service, what in list(self.received)
                if text in json.dumps(what)]

    def channels(self, text):
        return {channel for _, channel, _ in self.named(text)}

    def close(self):
        for server in self.servers:
            server.shutdown()
            server.server_close()
