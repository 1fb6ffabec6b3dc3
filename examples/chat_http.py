"""A chat over HTTP for the examples, on the standard library. Your own framework replaces it."""

import logging
import sys
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def serve(answer: Callable[[str, str], str]) -> None:
    """Answer what is posted, each request in a thread of its own, until the process is killed.

    Args:
        answer: takes a session and what its user says, and returns the reply. The path is the session: your own server
            takes it from the login.
    """

    class Chat(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            try:
                text = self.rfile.read(int(self.headers["Content-Length"] or 0)).decode().strip()
            except ValueError:
                text = ""
            if not text:  # providers refuse it
                return self.reply(HTTPStatus.BAD_REQUEST, "Say something, in UTF-8.")
            try:
                return self.reply(HTTPStatus.OK, answer(self.path, text))
            except Exception:
                # What went wrong may have secrets in it: it is for the log.
                logging.exception("no answer to %s", self.path)
                return self.reply(HTTPStatus.BAD_GATEWAY, "There is no answer. Please ask again.")

        def reply(self, status: HTTPStatus, text: str) -> None:
            body = f"{text}\n".encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Log nothing but errors."""

    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
    with ThreadingHTTPServer(("127.0.0.1", port), Chat) as server:
        print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()
