"""The commands `enflow jobs ...`: jobs of a running service."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from enflow.model.cli.options import Json, print_result
from enflow.model.errors import ConfigError, DataError
from enflow.model.progress import progress
from enflow.service.media_types import HTML, JSON, NDJSON, SDF, XYZ, ZIP

jobs = typer.Typer(
    help="Durable batches of up to a million molecules, computed by a running service.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

ACCEPT = {".json": JSON, ".ndjson": NDJSON, ".jsonl": NDJSON, ".xyz": XYZ, ".sdf": SDF, ".html": HTML, ".zip": ZIP}
"""The media type of the results by the ending of the file."""

POLL_S = 2.0

Url = Annotated[str, typer.Option(envvar="ENFLOW_URL", help="Address of the service.")]
Key = Annotated[str | None, typer.Option(envvar="ENFLOW_API_KEY", help="API key, where the service needs one.")]
JobId = Annotated[str, typer.Argument(metavar="ID", help="The id of a job.")]

HERE = "http://127.0.0.1:8000"


@jobs.command()
def submit(
    body: Annotated[str, typer.Argument(metavar="BODY", help="JSON, a file with JSON, or - for standard input.")],
    url: Url = HERE,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Start a job: enflow jobs submit '{"sample": {"n_molecules": 2000, "only": "valid"}}'"""
    with _service(url, key) as http:
        job = _checked(http.post("/jobs", content=_text(body), headers={"Content-Type": JSON})).json()
    print_result(_line(job), job, as_json=as_json)


@jobs.command(name="list")
def newest(url: Url = HERE, key: Key = None, as_json: Json = False) -> None:
    """List the newest jobs."""
    with _service(url, key) as http:
        found = _checked(http.get("/jobs")).json()
    print_result("\n".join(map(_line, found["jobs"])) or "no jobs", found, as_json=as_json)


@jobs.command()
def show(job_id: JobId, url: Url = HERE, key: Key = None, as_json: Json = False) -> None:
    """Show the state of a job."""
    with _service(url, key) as http:
        job = _checked(http.get(f"/jobs/{job_id}")).json()
    print_result(_line(job), job, as_json=as_json)


@jobs.command()
def wait(job_id: JobId, url: Url = HERE, key: Key = None, as_json: Json = False) -> None:
    """Wait until a job has ended, with a progress bar on a terminal."""
    with _service(url, key) as http, progress() as report:
        while (job := _checked(http.get(f"/jobs/{job_id}")).json())["ended"] is None:
            report("computing", job["done"], job["n_molecules"])
            time.sleep(POLL_S)
    print_result(_line(job), job, as_json=as_json)
    if job["state"] != "done":
        raise DataError(f"the job {job_id} is {job['state']}: {job['detail'] or 'by a request'}")


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
    if out.suffix not in ACCEPT:
        raise ConfigError(f"found the ending {out.suffix!r} of {out}; expected one of {', '.join(ACCEPT)}")
    query = {"first": first} | ({"count": count} if count else {})
    part = out.with_name(f"{out.name}.part")
    with _service(url, key) as http:
        call = http.stream("GET", f"/jobs/{job_id}/results", params=query, headers={"Accept": ACCEPT[out.suffix]})
        with call as answer:
            if answer.is_error:
                answer.read()
            _checked(answer)
            try:
                with part.open("wb") as file:
                    for piece in answer.iter_bytes():
                        file.write(piece)
                part.replace(out)
            except OSError as error:
                raise DataError(f"cannot write {out}: {error.strerror}") from None
    typer.echo(f"{out}: {out.stat().st_size} bytes", err=True)


@jobs.command()
def cancel(job_id: JobId, url: Url = HERE, key: Key = None, as_json: Json = False) -> None:
    """Cancel a job, whose results so far stay; or remove one that has ended, with its results."""
    with _service(url, key) as http:
        job = _checked(http.delete(f"/jobs/{job_id}")).json()
    print_result(_line(job), job, as_json=as_json)


@contextmanager
def _service(url: str, key: str | None) -> Iterator[httpx.Client]:
    """Give a client of the service.

    Raises:
        DataError: no service answers there.
    """
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        with httpx.Client(base_url=url, headers=headers, timeout=60) as http:
            yield http
    except (httpx.TransportError, httpx.UnsupportedProtocol) as error:
        raise DataError(f"{url}: found no service ({type(error).__name__}); start it by `enflow serve`") from None


def _checked(answer: httpx.Response) -> httpx.Response:
    """Return an answer that is no problem.

    Raises:
        DataError: the service refused the request; the message is that of the service.
    """
    if not answer.is_error:
        return answer
    try:
        problem = answer.json()
        places = [f"{each['at'].strip('/')}: {each['message']}".removeprefix(": ") for each in problem["errors"]]
    except (ValueError, KeyError):
        raise DataError(f"the service answered with the status {answer.status_code}") from None
    raise DataError("; ".join(places) or problem["detail"])


def _text(body: str) -> str:
    """Return the JSON of an argument: the text itself, or that of a file.

    Raises:
        ConfigError: the file cannot be read.
    """
    if body.lstrip().startswith("{"):
        return body
    try:
        return typer.get_text_stream("stdin").read() if body == "-" else Path(body).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{body} cannot be read: {type(error).__name__}; expected JSON or a file with it") from None


def _line(job: dict[str, Any]) -> str:
    left = "" if job["time_left_s"] is None else f", {job['time_left_s']:.0f} s left"
    rate = f", {job['rate']:.3g} per second" if job["rate"] and job["ended"] is None else ""
    failed = f", {job['failed']} failed" if job["failed"] else ""
    detail = f": {job['detail']}" if job["detail"] else ""
    counts = f"{job['done']} of {job['n_molecules']}{failed}"
    return f"{job['id']}  {job['kind']}  {job['state']}{detail}  {counts}{rate}{left}"
