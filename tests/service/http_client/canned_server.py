"""A server of one answer, which is not one of Enflow."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


def answer(status: str, body: bytes = b"", **headers: str) -> bytes:
    """Return an answer of HTTP; a header's name has _ in the place of -."""
    lines = [f"HTTP/1.1 {status}", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "Connection: close", "", ""])
    return head.encode() + body


@contextmanager
def answering(answer: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """Give the address of a server that gives the same answer to all, and the requests that it gets."""
    requests: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_serve, args=(listener, answer, requests))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", requests
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _serve(listener: socket.socket, answer: bytes, requests: list[bytes]) -> None:
    with suppress(OSError):
        while True:
            caller, _ = listener.accept()
            with caller, suppress(OSError):
                requests.append(caller.recv(1 << 16))
                caller.sendall(answer)
                caller.shutdown(socket.SHUT_WR)
                while caller.recv(1 << 16):  # a socket that is closed with bytes unread takes its answer back
                    pass
