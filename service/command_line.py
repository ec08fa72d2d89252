"""The command line `enflow`: the commands of the model, and those of the service."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from enflow import __version__
from enflow.model.cli.app import app
from enflow.model.cli.app import main as main  # noqa: PLC0414 - the entry point runs it
from enflow.model.errors import ConfigError
from enflow.service.cli.jobs import jobs
from enflow.service.cli.likelihood import likelihood
from enflow.service.cli.mcp import mcp
from enflow.service.cli.sample import sample
from enflow.service.cli.variations import variations
from enflow.service.settings import Settings, read_settings

if TYPE_CHECKING:
    from enflow.service.client.base import EngineClient
    from enflow.service.client.replica_client import ReplicaClient

app.command()(sample)
app.command()(variations)
app.command()(likelihood)
app.command()(mcp)
app.add_typer(jobs, name="jobs")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"enflow {__version__}")
        raise typer.Exit


@app.callback(context_settings={"help_option_names": ["-h", "--help"]})
def enflow(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Generate and score 3D molecules with an E(n) equivariant normalizing flow."""


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on [default: 127.0.0.1].")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on [default: 8000].")] = None,
    weights: Annotated[Path | None, typer.Option(help="Folder of the weights [default: the bundled ones].")] = None,
    device: Annotated[str | None, typer.Option(help="auto (the GPU if there is one), cpu or cuda.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of the engine [default: PyTorch chooses].")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
    ray: Annotated[bool, typer.Option("--ray", help="Run the engines in Ray: many, on many GPUs or machines.")] = False,
    replicas: Annotated[int | None, typer.Option(min=1, help="Engines [default: one per GPU]; with --ray.")] = None,
) -> None:
    """Start the service: the page at /, the description of the API at /docs.

    Every option is also an environment variable (ENFLOW_PORT=9000), and so is every limit
    (ENFLOW_LIMITS__MAX_MOLECULES=100); GET /limits shows them. A host other than this machine needs API keys
    (ENFLOW_API_KEYS_FILE, lines of name:sha256) or ENFLOW_ALLOW_OPEN=1.
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
    if replicas and not ray:
        raise ConfigError("found --replicas without --ray, expected both: without Ray there is one engine")
    from enflow.service.telemetry import configure_logs

    configure_logs(settings.log_level)
    with _engines(settings, replicas) if ray else nullcontext((None, None)) as clients:
        _serve(settings, *clients)


def _serve(settings: Settings, client: "EngineClient | None", further: "Mapping[Path, EngineClient] | None") -> None:
    from enflow.service.api.app import create_app, engine_clients
    from enflow.service.api.server import Server
    from enflow.service.jobs.store import JobStore, StoreError

    with suppress(StoreError):  # the application logs it and has no jobs; a wrong URL ends the start with one line
        JobStore(settings.jobs_database).close()
    if settings.fronts > 1:
        from enflow.service.api.fronts import serve_fronts

        serve_fronts(settings, engine_clients(settings, client, further))
        return
    server = Server(create_app(settings, client, further), settings)
    try:
        server.run()
    except SystemExit:  # uvicorn could not listen, or the application did not start
        if server.should_exit:  # Ray ends on SIGTERM, which uvicorn raises again when it has stopped
            return
        raise ConfigError(f"the service did not start on {settings.host}:{settings.port}; its log says why") from None


def _engines(
    settings: Settings, replicas: int | None
) -> "AbstractContextManager[tuple[ReplicaClient, dict[Path, ReplicaClient]]]":
    try:
        from enflow.service.ray_app import engines
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise ConfigError("Ray is not installed: pip install -c constraints.txt -e '.[ray]'") from None
    return engines(settings, replicas)
