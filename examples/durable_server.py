"""A chat server on SQLite: a session survives a restart, and a request reads only what fits the LLM's window.

    python examples/durable_server.py chat.db 8000
    curl --data 'Where is my order?' http://127.0.0.1:8000/ada
    curl http://127.0.0.1:8000/ada

Kill it in any way and start it again: what was answered is remembered. `sqlite:///` is all that has to change for
PostgreSQL or Redis; then any number of such servers can share the sessions.
"""

import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from chatring.stores import open_store

file, port = sys.argv[1] if len(sys.argv) > 1 else "chat.db", int(sys.argv[2]) if len(sys.argv) > 2 else 8000
store = open_store(f"sqlite:///{file}")


def answer(window: list[dict[str, str]]) -> str:
    """Answer instead of an LLM, which would be given the same list."""
    return f"I see {len(window)} messages. The first is: {window[0]['content']}"


class Session(BaseHTTPRequestHandler):
    """The path is the session's key."""

    def do_POST(self) -> None:
        """Take a user's message, and send back the answer."""
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        store.append(self.path, [{"role": "user", "content": text}])
        reply = {"role": "assistant", "content": answer(store.window(self.path, token_limit=80))}
        store.append(self.path, [reply])
        self.send([reply])

    def do_GET(self) -> None:
        """Send the whole history."""
        self.send(store.all(self.path))

    def send(self, messages: list[dict[str, str]]) -> None:
        """Send messages, one a line."""
        body = "".join(f"{message['role']}: {message['content']}\n" for message in messages).encode()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


with ThreadingHTTPServer(("127.0.0.1", port), Session) as server:
    print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
