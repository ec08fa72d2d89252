"""The whole command line `enflow`: the model's commands, and the service."""

from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from model.__main__ import app, main
from model.errors import ConfigError
from service import offline
from service.settings import Settings

app.command()(offline.sample)
app.command()(offline.likelihood)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on [default: 127.0.0.1].")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on [default: 8000].")] = None,
    weights: Annotated[Path | None, typer.Option(help="Folder of the weights [default: the bundled ones].")] = None,
    device: Annotated[str | None, typer.Option(help="auto (the GPU if there is one), cpu or cuda.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of the engine [default: PyTorch chooses].")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
) -> None:
    """Start the service: the page at /, the API described at /docs.

    Every option is an environment variable as well (ENFLOW_PORT=9000), and so is every limit
    (ENFLOW_LIMITS__MAX_MOLECULES=100); GET /limits shows them. Beyond this machine it is served only with API keys
    (ENFLOW_API_KEYS_FILE, lines of name:sha256) or with ENFLOW_ALLOW_OPEN=1.
    """
    given = {
        "host": host,
        "port": port,
        "weights": weights,
        "device": device,
        "threads": threads,
        "log_level": log_level,
    }
    settings = read_settings({name: value for name, value in given.items() if value is not None})
    # Each process that spawns from here reads this module again: what is heavy is read by the one that serves.
    from service.app import create_app
    from service.server import Server
    from service.telemetry import configure_logs

    configure_logs(settings.log_level)
    server = Server(create_app(settings), settings)
    try:
        server.run()
    except SystemExit:  # uvicorn's way to say that it could not listen, or that the application did not start
        raise ConfigError(f"the service did not start on {settings.host}:{settings.port}; its log says why") from None


def read_settings(given: dict[str, Any]) -> Settings:
    """The settings of the environment, and over them those given.

    Raises:
        ConfigError: a setting is none, and which.
    """
    try:
        return Settings(**given)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = "ENFLOW_" + "__".join(str(part).upper() for part in first["loc"]) if first["loc"] else "settings"
        raise ConfigError(f"{name}: {first['msg'].removeprefix('Value error, ')}") from None


if __name__ == "__main__":
    main()
