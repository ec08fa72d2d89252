"""The commands `enflow jobs ...`: jobs of a running service."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from enflow.model.cli.options import Json, print_result, read_standard_input
from enflow.model.errors import ConfigError
from enflow.model.files import shown_name
from enflow.model.progress import progress
from enflow.service.http_client.client import HERE, Client
from enflow.service.http_client.job import Job, media_type_of

jobs = typer.Typer(
    help="Durable batches of up to a million molecules, computed by a running service.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Url = Annotated[str, typer.Option(envvar="ENFLOW_URL", help="Address of the service.")]
Key = Annotated[str | None, typer.Option(envvar="ENFLOW_API_KEY", help="API key, where the service needs one.")]
JobId = Annotated[str, typer.Argument(metavar="ID", help="The id of a job.")]


@jobs.command()
def submit(
    body: Annotated[str, typer.Argument(metavar="BODY", help="JSON, a file with JSON, or - for standard input.")],
    url: Url = HERE,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Start a job: enflow jobs submit '{"sample": {"n_molecules": 2000, "only": "valid"}}'"""
    with Client(url, key) as client:
        job = client.submit(**_fields(body))
    print_result(_line(job), job.document, as_json=as_json)


@jobs.command(name="list")
def newest(url: Url = HERE, key: Key = None, as_json: Json = False) -> None:
    """List the newest jobs."""
    with Client(url, key) as client:
        found = client.jobs()
    documents = {"jobs": [job.document for job in found]}
    print_result("\n".join(map(_line, found)) or "no jobs", documents, as_json=as_json)


@jobs.command()
def show(job_id: JobId, url: Url = HERE, key: Key = None, as_json: Json = False) -> None:
    """Show the state of a job."""
    with Client(url, key) as client:
        job = client.job(job_id)
    print_result(_line(job), job.document, as_json=as_json)


@jobs.command()
def wait(job_id: JobId, url: Url = HERE, key: Key = None, as_json: Json = False) -> None:
    """Wait until a job has ended, with a progress bar on a terminal."""
    with Client(url, key) as client:
        job = client.job(job_id)
        try:
            with progress() as report:
                job.wait(report)
        finally:
            if job.ended:
                print_result(_line(job), job.document, as_json=as_json)


@jobs.command()
def results(
    job_id: JobId,
    out: Annotated[Path, typer.Option(help="File: .sdf, .xyz, .json, .ndjson (a line for each), .html or .zip.")],
    first: Annotated[int, typer.Option(min=0, help="The first molecule, counted from 0.")] = 0,
    count: Annotated[int | None, typer.Option(min=1, help="Number of molecules [default: all that are done].")] = None,
    url: Url = HERE,
    key: Key = None,
) -> None:
    """Write the results of a job to a file, also while it runs."""
    media_type_of(out)  # before the service is asked
    with Client(url, key) as client:
        client.job(job_id).save(out, first, count)
    size = f": {out.stat().st_size} bytes" if out.is_file() else ""
    typer.echo(f"{shown_name(out)}{size}", err=True)


@jobs.command()
def cancel(job_id: JobId, url: Url = HERE, key: Key = None, as_json: Json = False) -> None:
    """Cancel a job, whose results so far stay; or remove one that has ended, with its results."""
    with Client(url, key) as client:
        job = client.job(job_id).delete()
    print_result(_line(job), job.document, as_json=as_json)


def _fields(body: str) -> dict[str, Any]:
    """Return the JSON object of an argument: of the text itself, or of a file.

    Raises:
        ConfigError: it is none.
    """
    try:
        found = json.loads(_content(body))
    except UnicodeDecodeError as error:
        raise ConfigError(f"found bytes that are no text in {error.encoding}, expected JSON in UTF-8") from None
    except ValueError as error:
        raise ConfigError(f"found no JSON: {error}") from None
    except RecursionError:
        raise ConfigError("found JSON that is nested too deeply, expected the fields of a request") from None
    if not isinstance(found, dict):
        raise ConfigError(f'found {type(found).__name__}, expected a JSON object such as {{"sample": {{}}}}')
    return found


def _content(body: str) -> str | bytes:
    """Return the JSON of an argument: the text itself, or the bytes of a file, of which json finds the encoding.

    Raises:
        ConfigError: the file cannot be read.
    """
    if body.lstrip().startswith("{"):
        return body
    try:
        return read_standard_input() if body == "-" else Path(body).read_bytes()
    except OSError as error:
        raise ConfigError(f"{body:.200} cannot be read: {error.strerror}; expected JSON or a file with it") from None


def _line(job: Job) -> str:
    found = job.document
    left = "" if found["time_left_s"] is None else f", {found['time_left_s']:.0f} s left"
    rate = f", {found['rate']:.3g} per second" if found["rate"] and not job.ended else ""
    failed = f", {found['failed']} failed" if found["failed"] else ""
    detail = f": {found['detail']}" if found["detail"] else ""
    return f"{job.id}  {found['kind']}  {job.state}{detail}  {job.done} of {job.n_molecules}{failed}{rate}{left}"
