"""The command `enflow mcp`: the tools of a running service for language models."""

from typing import Annotated

import typer

from enflow.model.errors import ConfigError
from enflow.service.cli.jobs import Key, Url
from enflow.service.http_client.client import HERE, Client


def mcp(
    url: Url = HERE,
    key: Key = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=1, max=65535, help="Serve HTTP at http://127.0.0.1:PORT/mcp [default: standard input and output]."
        ),
    ] = None,
) -> None:
    """Serve the Model Context Protocol: sample, score, variations and jobs of a running service, with pictures."""
    try:
        from enflow.service.mcp.server import create_server
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "mcp":
            raise
        raise ConfigError("the SDK of MCP is not installed: pip install 'enflow[mcp]'") from None
    with Client(url, key) as client:
        server = create_server(client)
        if port is None:
            server.run("stdio")
        else:
            server.run("streamable-http", port=port)
