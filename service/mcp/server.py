"""The tools of the MCP server: sample, score, vary, and jobs, each with a picture where there are molecules."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import anyio.from_thread
from mcp.server.mcpserver import Context, Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import CallToolResult, ContentBlock, TextContent, ToolAnnotations
from pydantic import Field
from pydantic_core import to_json

from enflow import __version__
from enflow.model.chem.molecule import Molecule
from enflow.model.chem.pictures import picture_2d, picture_3d
from enflow.model.errors import EnflowError
from enflow.model.progress import ProgressCallback
from enflow.service.http_client.client import Client
from enflow.service.http_client.job import Job
from enflow.service.http_client.results import MoleculeScore, molecule
from enflow.service.schemas.jobs import JobRequest
from enflow.service.schemas.requests import LikelihoodRequest, SampleRequest, VariationsRequest

INSTRUCTIONS = """Enflow generates small 3D molecules (H, C, N, O, F; up to 29 atoms, as in QM9) and computes how likely
a 3D molecule is under its model, a normalizing flow. An NLL is in nats, and compares molecules of the same size; a
lower one is more probable. (seed, index) fixes a molecule. Positions are in angstrom. More molecules than `limits`
allows in one request are a job."""

MOST_PICTURED = 24
"""The molecules of a result that its picture shows."""

Picture = Annotated[
    Literal["2d", "3d", "none"],
    Field(description="2d = structural formulas; 3d = balls and sticks; of the first 24 molecules, as PNG"),
]
JobId = Annotated[str, Field(description="the id of a job")]
Facts = Mapping[str, Any]


def create_server(client: Client) -> MCPServer[Any]:
    """Return a server whose tools use a client of a running service."""
    server: MCPServer[Any] = MCPServer(
        "enflow", title="Enflow", version=__version__, instructions=INSTRUCTIONS, log_level="WARNING"
    )
    tools = ServiceTools(client)
    reading = ToolAnnotations(read_only_hint=True, open_world_hint=False)
    for tool in (tools.sample, tools.score, tools.variations, tools.limits, tools.show_job, tools.job_results):
        server.add_tool(tool, annotations=reading)
    server.add_tool(tools.start_job, annotations=ToolAnnotations(destructive_hint=False, open_world_hint=False))
    server.add_tool(tools.delete_job, annotations=ToolAnnotations(destructive_hint=True, open_world_hint=False))
    return server


class ServiceTools:
    """The tools; a tool blocks, and the SDK runs it in a thread."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def sample(self, request: SampleRequest, context: Context[Any, Any], picture: Picture = "2d") -> CallToolResult:
        """Generate 3D molecules."""
        with _errors_for_the_model():
            found = self._client.generate("sample", _body(request), _reporter(context))
        return _result([_of_molecule(each) for each in found], found, picture, failed=found.failed)

    def variations(
        self, request: VariationsRequest, context: Context[Any, Any], picture: Picture = "2d"
    ) -> CallToolResult:
        """Generate molecules near a given one."""
        with _errors_for_the_model():
            found = self._client.generate("variations", _body(request), _reporter(context))
        return _result([_of_molecule(each) for each in found], found, picture, failed=found.failed)

    def score(
        self, request: LikelihoodRequest, context: Context[Any, Any], picture: Picture = "none"
    ) -> CallToolResult:
        """Compute the negative log-likelihood of 3D structures in nats, with its standard error."""
        with _errors_for_the_model():
            found = self._client.score(_body(request), _reporter(context))
        shown = [molecule(each.document) for each in found if not each.error]
        return _result([_of_score(each) for each in found], shown, picture)

    def limits(self) -> CallToolResult:
        """Return the limits of one request, and the models of the service."""
        with _errors_for_the_model():
            models = [{"name": card["name"], "kind": card.get("kind")} for card in self._client.models()]
            return _answer({"limits": self._client.limits(), "models": models})

    def start_job(self, request: JobRequest) -> CallToolResult:
        """Start a job of up to a million molecules, which goes on by itself; show_job has its state."""
        with _errors_for_the_model():
            return _answer(self._client.submit(**_body(request)).document)

    def show_job(self, job_id: JobId) -> CallToolResult:
        """Return the state of a job: how much is done, the rate and the time left."""
        with _errors_for_the_model():
            return _answer(self._client.job(job_id).document)

    def job_results(
        self,
        job_id: JobId,
        first: Annotated[int, Field(ge=0, description="the first molecule, counted from 0")] = 0,
        count: Annotated[int, Field(ge=1, le=200)] = 20,
        picture: Picture = "2d",
    ) -> CallToolResult:
        """Return some results of a job, also while it runs."""
        with _errors_for_the_model():
            job = self._client.job(job_id)
            found = list(job.results(first, count))
        shown = [each for each in found if isinstance(each, Molecule)]
        return _result([_of_result(each) for each in found], shown, picture, job=_state(job), first=first)

    def delete_job(self, job_id: JobId) -> CallToolResult:
        """Cancel a job, whose results so far stay; or remove it with its results if it has ended."""
        with _errors_for_the_model():
            return _answer(self._client.job(job_id).delete().document)


@contextmanager
def _errors_for_the_model() -> Iterator[None]:
    """Raise an error of the service as the result of the tool, which the model reads."""
    try:
        yield
    except EnflowError as error:
        raise ToolError(str(error)) from None


def _reporter(context: Context[Any, Any]) -> ProgressCallback:
    """Return a callback that reports the progress of a tool, and ends it when its caller has cancelled it."""

    def report(task: str, done: int, total: int, note: str = "", /) -> None:  # noqa: ARG001
        anyio.from_thread.check_cancelled()
        anyio.from_thread.run(context.report_progress, done, total)

    return report


def _body(request: SampleRequest | VariationsRequest | LikelihoodRequest | JobRequest) -> dict[str, Any]:
    return request.model_dump(mode="json", exclude_unset=True)


def _result(entries: Sequence[Facts], shown: Sequence[Molecule], picture: str, **facts: Any) -> CallToolResult:
    legends = [f"{n}: {each.formula}" for n, each in enumerate(shown[:MOST_PICTURED])]
    draw: Mapping[str, Callable[[], bytes]] = {
        "2d": lambda: picture_2d([_smiles(each) for each in shown[:MOST_PICTURED]], legends),
        "3d": lambda: picture_3d(shown[:MOST_PICTURED], legends),
    }
    images = [Image(data=draw[picture]()).to_image_content()] if legends and picture in draw else []
    return _answer({"results": entries, **facts}, images)


def _answer(document: Facts, images: Sequence[ContentBlock] = ()) -> CallToolResult:
    text = TextContent(type="text", text=to_json(document, inf_nan_mode="null").decode())
    return CallToolResult(content=[text, *images])


def _of_molecule(found: Molecule) -> dict[str, object]:
    rows = zip(found.symbols, found.positions.tolist(), strict=True)
    xyz = f"{found.n_atoms}\n\n" + "".join(f"{s} {x:.4f} {y:.4f} {z:.4f}\n" for s, (x, y, z) in rows)
    return {"formula": found.formula, **found.properties, "xyz": xyz}


def _of_score(found: MoleculeScore) -> Facts:
    if found.error:
        named = {"name": found.document["name"]} if found.document.get("name") else {}
        return {"index": found.document["index"], **named, "error": found.error}
    names = ("index", "formula", "smiles", "nll", "std_error", "nll_per_atom", "percentile", "parts")
    return {name: found.document[name] for name in names if name in found.document}


def _of_result(found: Molecule | MoleculeScore | EnflowError) -> Facts:
    match found:
        case Molecule():
            return _of_molecule(found)
        case MoleculeScore():
            return _of_score(found)
        case _:
            return {"error": str(found)}


def _smiles(found: Molecule) -> str | None:
    smiles = found.properties.get("smiles")
    return smiles if isinstance(smiles, str) else None


def _state(job: Job) -> dict[str, object]:
    return {name: job.document[name] for name in ("id", "state", "done", "failed", "n_molecules")}
