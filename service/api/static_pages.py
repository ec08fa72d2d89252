"""The page, its assets, and the interactive documentation.

Every file comes from this service and none from a CDN, so that the page works without a network.
"""

from importlib.util import find_spec
from pathlib import Path

from fastapi import APIRouter
from starlette.datastructures import Headers
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
    """Static files; a client that accepts gzip gets the compressed copy that was made at build time."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        compressed = "gzip" in Headers(scope=scope).get("accept-encoding", "") and self.lookup_path(f"{path}.gz")[1]
        response = await super().get_response(f"{path}.gz" if compressed else path, scope)
        if compressed:
            response.headers["content-encoding"] = "gzip"
            response.headers["content-type"] = _TYPES.get(Path(path).suffix, "application/octet-stream")
        response.headers["vary"] = "Accept-Encoding"
        response.headers["cache-control"] = "no-cache"
        return response


_TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}


pages = APIRouter(include_in_schema=False)


@pages.api_route("/", methods=["GET", "HEAD"])
async def index() -> Response:
    """Return the page.

    Raises:
        Problem: the page has not been built.
    """
    if not (DIST / "index.html").is_file():
        raise Problem("not-found", "the page is not built: run `make page`; the API is described at /docs")
    return FileResponse(DIST / "index.html", headers={"Cache-Control": "no-cache"})


@pages.api_route("/docs", methods=["GET", "HEAD"])
async def docs() -> Response:
    """Return the interactive documentation."""
    return Response(DOCS, media_type="text/html")


@pages.api_route("/docs/start.js", methods=["GET", "HEAD"])
async def start() -> Response:
    """Return the script that starts the documentation; the content security policy allows no inline script."""
    return Response(START, media_type="text/javascript")


def mounts() -> list[Mount]:
    """Return the mounted folders: the assets of the page and those of the documentation."""
    spec = find_spec("fastapi_offline")  # only for its copy of Swagger UI
    assert spec is not None
    assert spec.origin is not None
    return [
        Mount("/assets", Assets(directory=DIST / "assets", check_dir=False)),
        Mount("/docs/assets", StaticFiles(directory=Path(spec.origin).parent / "static")),
    ]
