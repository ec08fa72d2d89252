"""A reverse proxy below a path prefix, as nginx is one."""

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

PREFIX = "/chem/enflow"
OWN = ("connection", "transfer-encoding", "content-length", "date", "server")
"""Headers of an answer that belong to one connection."""


@contextmanager
def proxying(service: httpx.URL, *, strips: bool) -> Iterator[str]:
    """Yield the address of a proxy that passes requests below PREFIX to a service.

    Args:
        service: the address of the service.
        strips: the proxy removes the prefix and names it in X-Forwarded-Prefix; else the path is passed as it is.
    """

    class Proxy(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not self.path.startswith(f"{PREFIX}/") and (strips or self.path != PREFIX):
                self.send_error(404)
                return
            path = self.path.removeprefix(PREFIX) if strips else self.path
            headers = {**self.headers, **({"X-Forwarded-Prefix": PREFIX} if strips else {})}
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            answer = httpx.request(self.command, service.join(path), content=body, headers=headers, timeout=60)
            self.send_response(answer.status_code)
            for name, value in answer.headers.items():
                if name not in (*OWN, "content-encoding"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        do_POST = do_DELETE = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
