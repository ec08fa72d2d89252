"""A proxy that breaks connections, as a network does."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import httpx


@dataclass
class BreakingProxy:
    """Passes bytes to a service and back.

    Attributes:
        service: host and port of the service.
        cuts: the bytes of the answers after which each connection breaks, in the order of the connections; a
            connection beyond the last one holds.
        requests: the bytes that each connection sent.
    """

    service: tuple[str, int]
    cuts: list[int] = field(default_factory=list)
    requests: list[bytes] = field(default_factory=list)
    url: str = ""

    def serve(self, listener: socket.socket) -> None:
        """Pass connections until the listener is closed."""
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                number = len(self.requests)
                self.requests.append(b"")
                cut = self.cuts[number] if number < len(self.cuts) else None
                threading.Thread(target=self._pass, args=(connection, number, cut), daemon=True).start()

    def _pass(self, caller: socket.socket, number: int, cut: int | None) -> None:
        with caller, socket.create_connection(self.service) as service, suppress(OSError):
            threading.Thread(target=self._forward, args=(caller, service, number), daemon=True).start()
            sent = 0
            while piece := service.recv(1 << 16 if cut is None else min(1 << 16, max(1, cut - sent))):
                if sent == cut:
                    break
                caller.sendall(piece)
                sent += len(piece)
            caller.shutdown(socket.SHUT_RDWR)

    def _forward(self, caller: socket.socket, service: socket.socket, number: int) -> None:
        with suppress(OSError):
            while piece := caller.recv(1 << 16):
                self.requests[number] += piece
                service.sendall(piece)
            service.shutdown(socket.SHUT_RDWR)


@contextmanager
def breaking(service: httpx.URL) -> Iterator[BreakingProxy]:
    """Yield a proxy before a service; it breaks no connection until `cuts` says so."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = BreakingProxy((service.host, service.port or 80), url=f"http://127.0.0.1:{listener.getsockname()[1]}")
        thread = threading.Thread(target=proxy.serve, args=(listener,))
        thread.start()
        yield proxy
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
