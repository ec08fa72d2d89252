"""The results of a job: lines of JSON in the store, and the formats in which they are read."""

import asyncio
import json
import zlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from enflow.model.chem.bonds import Bonds
from enflow.model.chem.molecule import Molecule
from enflow.model.errors import EnflowError
from enflow.service.chemistry.rdkit_pool import RDKitPool, WrittenForm
from enflow.service.jobs.records import JobPart
from enflow.service.media_types import HTML, JSON, NDJSON, SDF, XYZ, ZIP
from enflow.service.problems import Problem
from enflow.service.protocol.events import Reason
from enflow.service.rendering.encoders import Answer, zip_files
from enflow.service.rendering.score_errors import score_error
from enflow.service.schemas.responses import FailedOut, LikelihoodResponse, ScoreErrorOut

MOLECULE_FORMATS, LIKELIHOOD_FORMATS = (JSON, XYZ, SDF, NDJSON, HTML, ZIP), (JSON, NDJSON)
"""The media types of the results of a job; the first is the default."""

Line = dict[str, Any]


@dataclass(frozen=True)
class PartResults:
    """The results of one part: a document for each place, the failures among them, and the molecules computed."""

    lines: Sequence[str]
    failed: int
    tried: int

    def packed(self) -> bytes:
        """Return the lines as the store keeps them."""
        return zlib.compress("\n".join(self.lines).encode(), level=6)


def part_results(answer: Answer, part: range, first_index: int, size: int) -> PartResults:
    """Return the results of a part in the order of the places.

    Args:
        answer: the answer of the handler.
        part: the places.
        first_index: the index of the first attempt at place 0.
        size: the number of places of the job; attempt j at a place has an index larger by j x size.
    """
    document = answer.document
    if isinstance(document, LikelihoodResponse):
        scores = [each.model_dump_json(exclude_unset=True) for each in document.results]
        return PartResults(scores, sum(isinstance(each, ScoreErrorOut) for each in document.results), len(scores))
    entries = {(each.index - first_index) % size: each for each in (*document.failed, *document.molecules)}
    assert entries.keys() == set(part), "every place has one molecule or one failure"
    lines = [entries[place].model_dump_json(exclude_unset=True) for place in part]
    attempts = getattr(document, "attempts", None)
    failed = sum(isinstance(each, FailedOut) for each in entries.values())
    return PartResults(lines, failed, attempts.tried if attempts else len(lines))


def failed_results(
    problem: Problem, part: range, first_index: int, scored: Sequence[Molecule | EnflowError] | None, job_id: str
) -> PartResults:
    """Return the results of a part for which there is no answer: every place has the reason.

    Args:
        problem: the reason.
        part: the places.
        first_index: the index of the first attempt at place 0.
        scored: the structures of a job of likelihoods; None for a job of molecules.
        job_id: the job.
    """
    entries = [
        FailedOut(index=first_index + place, reason=str(Reason.ENGINE), detail=problem.detail)
        if scored is None
        else score_error(place, problem, scored[place], job_id)
        for place in part
    ]
    return PartResults([each.model_dump_json(exclude_unset=True) for each in entries], len(part), len(part))


def unpack(part: JobPart, first: int, stop: int) -> list[str]:
    """Return the lines of a stored part for the places `first` to `stop` - 1."""
    lines = zlib.decompress(part.data).decode().split("\n")
    return lines[max(0, first - part.start) : max(0, stop - part.start)]


@dataclass(frozen=True)
class ResultsHead:
    """The fields of the JSON document before its lists."""

    fields: Mapping[str, Any]
    of_scores: bool


async def encode_results(
    batches: AsyncIterator[list[str]], media_type: str, head: ResultsHead, chemistry: RDKitPool, form: WrittenForm
) -> AsyncIterator[bytes]:
    """Yield the body of the results, a batch at a time.

    Args:
        batches: the lines, in order.
        media_type: one of `MOLECULE_FORMATS` or `LIKELIHOOD_FORMATS`.
        head: the fields of the JSON document before its lists.
        chemistry: reads XYZ, and writes HTML, V3000 and molecules without bonds.
        form: the form that RDKit writes: "sdf-v3000" is written as a whole.
    """
    if media_type == JSON:
        async for piece in _json(batches, head):
            yield piece
    elif media_type in (HTML, ZIP) or form == "sdf-v3000":
        lines = [line async for batch in batches for line in batch]
        yield await _whole(lines, media_type, head, chemistry, form)
    else:
        async for batch in batches:
            yield await _piece(batch, media_type, chemistry)


async def _piece(batch: Sequence[str], media_type: str, chemistry: RDKitPool) -> bytes:
    if media_type == NDJSON:
        return "".join(f"{line}\n" for line in batch).encode()
    molecules = await asyncio.to_thread(_molecules, batch)
    if media_type == XYZ:
        return "".join(each["xyz"] for each in molecules).encode()
    return "".join([each.get("sdf") or await _written([each], "sdf", chemistry) for each in molecules]).encode()


async def _json(batches: AsyncIterator[list[str]], head: ResultsHead) -> AsyncIterator[bytes]:
    name, failed, separator = "results" if head.of_scores else "molecules", [], ""
    yield f'{json.dumps(head.fields)[:-1]}, "{name}": ['.encode()
    async for batch in batches:
        kept = batch if head.of_scores else [line for line in batch if not _is_failure(line)]
        failed += [] if head.of_scores else [line for line in batch if _is_failure(line)]
        if kept:
            yield (separator + ",\n".join(kept)).encode()
            separator = ",\n"
    yield b"]}" if head.of_scores else f'], "failed": [{",".join(failed)}]}}'.encode()


async def _whole(
    lines: Sequence[str], media_type: str, head: ResultsHead, chemistry: RDKitPool, form: WrittenForm
) -> bytes:
    molecules = await asyncio.to_thread(_molecules, lines)
    if media_type != ZIP:
        return (await _written(molecules, form, chemistry)).encode()

    async def once() -> AsyncIterator[list[str]]:
        yield list(lines)

    files = {"results.json": b"".join([piece async for piece in _json(once(), head)])}
    if all(each["kind"] == "molecule" for each in molecules):
        files = {"molecules.sdf": await _piece(lines, SDF, chemistry), **files}
    return await asyncio.to_thread(zip_files, {"molecules.xyz": await _piece(lines, XYZ, chemistry), **files})


async def _written(molecules: Sequence[Line], form: WrittenForm, chemistry: RDKitPool) -> str:
    """Return molecules as RDKit writes them; bonds that were inferred are inferred again, which gives the same."""
    if not molecules:
        return ""
    texts = "".join(each["xyz"] for each in molecules).encode()
    read = [each for each in await chemistry.read(texts, "xyz", len(molecules)) if isinstance(each, Molecule)]
    if len(read) < len(molecules):
        raise Problem("invalid", "found a molecule that this format cannot hold, expected chemical/x-xyz or JSON")
    bonds = await asyncio.gather(*map(partial(_bonds, chemistry), molecules, read))
    return await chemistry.write(read, bonds, form)


async def _bonds(chemistry: RDKitPool, line: Line, molecule: Molecule) -> Bonds:
    if line["bonds"]["status"] == "omitted":
        return Bonds("omitted", line["bonds"]["rdkit"])
    return (await chemistry.bond_report(molecule)).bonds


def _molecules(lines: Sequence[str]) -> list[Line]:
    return [json.loads(line) for line in lines if not _is_failure(line)]


def _is_failure(line: str) -> bool:
    """Return True for a molecule that could not be generated: its second field is the reason and not the kind."""
    return line.partition(",")[2].startswith('"reason"')
