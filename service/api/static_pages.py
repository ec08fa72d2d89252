"""The page, its assets, and the interactive documentation; all from this machine, nothing from a CDN."""

from importlib.util import find_spec
from pathlib import Path

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from enflow.service.problems import Problem

DIST = Path(__file__).resolve().parent.parent / "web" / "dist"

DOCS = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Enflow: the API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/docs/assets/swagger-ui.css">
<div id="swagger-ui"></div>
<script src="/docs/assets/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</html>
"""
START = """SwaggerUIBundle({ url: "/openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null });
"""


class Assets(StaticFiles):
    """Files that were packed when they were built are sent packed to who takes that."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        packed = "gzip" in Headers(scope=scope).get("accept-encoding", "") and self.lookup_path(f"{path}.gz")[1]
        response = await super().get_response(f"{path}.gz" if packed else path, scope)
        if packed:
            response.headers["content-encoding"] = "gzip"
            response.headers["content-type"] = _TYPES.get(Path(path).suffix, "application/octet-stream")
        response.headers["vary"] = "Accept-Encoding"
        response.headers["cache-control"] = "no-cache"
        return response


_TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}


async def index(_request: Request) -> Response:
    """The page."""
    if not (DIST / "index.html").is_file():
        raise Problem("not-found", "the page is not built: run `make page`; the API is described at /docs")
    return FileResponse(DIST / "index.html", headers={"Cache-Control": "no-cache"})


async def docs(_request: Request) -> Response:
    """The interactive documentation."""
    return Response(DOCS, media_type="text/html")


async def start(_request: Request) -> Response:
    """What starts the interactive documentation; the content security policy allows no script in the page itself."""
    return Response(START, media_type="text/javascript")


PAGES = {"/": index, "/docs": docs, "/docs/start.js": start}


def mounts() -> list[Mount]:
    """The assets of the page and of the documentation."""
    spec = find_spec("fastapi_offline")  # only for the Swagger UI it carries
    assert spec is not None
    assert spec.origin is not None
    return [
        Mount("/assets", Assets(directory=DIST / "assets", check_dir=False)),
        Mount("/docs/assets", StaticFiles(directory=Path(spec.origin).parent / "static")),
    ]
