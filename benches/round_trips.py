"""How often a client waits for its server: a proxy between them that counts."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class RoundTrips:
    """Forwards connections to a port on loopback, and counts the requests that begin after an answer."""

    def __init__(self, port: int) -> None:
        self.count = 0
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets = [self._listener]
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._port))
                self._sockets += [client, server]
                answered = threading.Event()
                answered.set()
                threading.Thread(target=self._forward, args=(client, server, answered), daemon=True).start()
                threading.Thread(target=self._backward, args=(server, client, answered), daemon=True).start()

    def _forward(self, client: socket.socket, server: socket.socket, answered: threading.Event) -> None:
        with suppress(OSError):
            while data := client.recv(1 << 16):
                if answered.is_set():
                    answered.clear()
                    self.count += 1
                server.sendall(data)

    def _backward(self, server: socket.socket, client: socket.socket, answered: threading.Event) -> None:
        with suppress(OSError):
            while data := server.recv(1 << 16):
                answered.set()
                client.sendall(data)


@contextmanager
def counted(port: int) -> Iterator[RoundTrips]:
    """Return a proxy to the server at `port` that counts the round trips."""
    proxy = RoundTrips(port)
    try:
        yield proxy
    finally:
        proxy.close()
