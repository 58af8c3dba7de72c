"""A paid images service on this machine, in the format of OpenAI."""

from __future__ import annotations

import base64
import io
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image


def png(number, size=256):
    """One flat image; its grey level tells which answer it was."""
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), (number % 256,) * 3).save(buffer, "PNG")
    return buffer.getvalue()


def answer(pictures):
    entries = [{"b64_json": base64.b64encode(picture).decode()} for picture in pictures]
    return 200, {}, json.dumps({"created": 1, "data": entries}).encode()


class Stub:
    """An images service on this machine; ``plan`` holds special answers for the next requests."""

    def __init__(self):
        self.bodies, self.paths, self.plan, self.made = [], [], [], 0
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                stub.bodies.append(body)
                stub.paths.append(self.path)
                status, headers, content = stub.answer(body)
                try:
                    self.send_response(status)
                    for key, value in {"content-type": "application/json", **headers}.items():
                        self.send_header(key, value)
                    self.send_header("content-length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)
                except OSError:
                    pass

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.server_port}/v1"

    def answer(self, body):
        special = self.plan.pop(0) if self.plan else None
        if special is not None:
            return special() if callable(special) else special
        return answer(self.pictures(body))

    def pictures(self, body):
        match = re.search(rb'"n":\s*(\d+)|name="n"\r\n\r\n(\d+)', body)
        count = int(match[1] or match[2])
        self.made += count
        return [png(self.made - count + i) for i in range(count)]

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
