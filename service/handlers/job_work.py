"""The work of a job: the same handlers as for a request, called for one part of the molecules after the other."""

import asyncio
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from enflow.model.chem.molecule import Molecule
from enflow.model.config import TOLERANCES
from enflow.model.errors import EnflowError
from enflow.service.chemistry.rdkit_pool import Upload
from enflow.service.handlers.context import Caller, HandlerContext
from enflow.service.handlers.fragments import read_fragment
from enflow.service.handlers.latent_walk import TIGHTER, LatentWalkHandler, parents_of
from enflow.service.handlers.likelihood import LikelihoodHandler, likelihood_seconds
from enflow.service.handlers.model_registry import ModelRegistry
from enflow.service.handlers.sampling import SamplingHandler, refinements_of, sampling_seconds
from enflow.service.handlers.served_model import ServedModel
from enflow.service.handlers.variations import VariationsHandler
from enflow.service.jobs.records import JobRecord
from enflow.service.protocol.requests import EngineSampleRequest, Structure
from enflow.service.rendering.encoders import Answer
from enflow.service.schemas.jobs import JobRequestBody
from enflow.service.schemas.requests import (
    InterpolateRequest,
    LikelihoodRequest,
    SampleRequest,
    VariationsRequest,
    rtol,
)

CLIENT = "jobs"
"""The client whose share of the engine's queue all jobs use, so that they take none from their owners' requests."""

PART_S, PART, FEWEST = 10.0, 64, 8
"""Seconds that a part should take, the molecules of a part (or as many as the device takes at once, if more), and the
fewest. A part is what a stopped service computes again."""


@dataclass(frozen=True)
class JobWork:
    """The work of a job.

    Attributes:
        served: the model, in the background.
        body: the body of the endpoint.
        structures: the parsed structures of the body, each a molecule or its error.
        fragment: the fragment of a request for molecules.
    """

    served: ServedModel
    body: JobRequestBody
    structures: Sequence[Molecule | EnflowError] = ()
    fragment: Structure | None = None

    @property
    def size(self) -> int:
        """The number of molecules or structures."""
        match self.body:
            case SampleRequest():
                return len(self.body.sizes)
            case LikelihoodRequest():
                return len(self.structures)
            case InterpolateRequest():
                return self.body.steps
            case VariationsRequest():
                return self.body.n_molecules

    async def run(self, part: range, seed: int, job_id: str) -> Answer:
        """Return the answer for one part of the molecules.

        Raises:
            Problem: the work cannot be carried out, or not now.
        """
        context = HandlerContext(seed, Caller(CLIENT, job_id, time.time(), math.inf))
        match self.body:
            case SampleRequest():
                return await SamplingHandler(self.served, self.body, context, part, self.fragment).run()
            case LikelihoodRequest():
                return await LikelihoodHandler(self.served, self.body, self.structures, context, part).run()
            case InterpolateRequest():
                return await LatentWalkHandler(self.served, self.body, self.structures, context, part).run()
            case VariationsRequest():
                return await VariationsHandler(self.served, self.body, self.structures, context, part).run()

    @property
    def seconds_each(self) -> float:
        """The estimated time of one molecule; 0 where the speed of the engine is not known."""
        match self.body:
            case SampleRequest():
                return sampling_seconds(self.served, self.body)
            case LikelihoodRequest():
                return likelihood_seconds(self.served, self.body, self.structures)
            case InterpolateRequest():
                return path_seconds(self.served, self.structures, TIGHTER * TOLERANCES["precise"])
            case VariationsRequest():
                return path_seconds(self.served, self.structures, rtol(self.body.tolerance))

    @property
    def part_size(self) -> int:
        """The number of molecules of the next part."""
        limits, largest = self.served.limits, self.served.card.vocabulary.max_atoms
        frames = self.body.frames if isinstance(self.body, SampleRequest) else 0
        most = min(limits.max_pairs // largest**2, limits.max_total_frames // max(frames, 1))
        wanted = int(PART_S / self.seconds_each) if self.seconds_each else PART
        slots = self.served.client.stats().slots
        return max(1, min(most, max(PART, slots), max(FEWEST, wanted)))


async def prepare_work(registry: ModelRegistry, body: JobRequestBody, served: ServedModel) -> JobWork:
    """Return the work of a job with its structures parsed.

    Raises:
        Problem: the body does not fit its model, or its structures cannot be read.
    """
    if isinstance(body, SampleRequest):
        settled = registry.sampling(body)[1]
        return JobWork(served, settled, fragment=await read_fragment(served, settled))
    files = [Upload(each.format, each.data.encode()) for each in body.structures]
    structures = (await served.parse(files)).structures
    if not isinstance(body, LikelihoodRequest):
        parents_of(structures, 2 if isinstance(body, InterpolateRequest) else 1)
    return JobWork(served, body, structures)


def stored_request(work: JobWork, body: JobRequestBody) -> str:
    """Return the body of a job as JSON, with the refinements that its molecules get where it names none."""
    if isinstance(body, SampleRequest):
        body = body.model_copy(update={"refinements": refinements_of(work.served, body)})
    return body.model_dump_json(exclude_unset=True)


def solver_fields(job: JobRecord) -> dict[str, Any]:
    """Return the tolerance, the temperature and the refinements of a job, where the answer of its endpoint has them.

    A walk has no tolerance here: each part reduces it until the parents come back.
    """
    given = json.loads(job.request)
    if job.kind == "interpolate":
        return {"refinements": 0}
    found = {"tolerance": rtol(given.get("tolerance", "standard"))}
    match job.kind:
        case "variations":
            return {**found, "refinements": 0}
        case "sample":
            known = (
                {"refinements": given["refinements"]} if "refinements" in given else {}
            )  # an older job may have none
            return {**found, "temperature": given.get("temperature", 1.0), **known}
    return found


def model_for(
    registry: ModelRegistry, body: JobRequestBody, max_molecules: int, turn: asyncio.Semaphore
) -> ServedModel:
    """Return the model that a body asks for, in the background, with the limits of a job.

    Raises:
        Problem: no such model is loaded, or it cannot do this.
    """
    match body:
        case SampleRequest():
            served = registry.sampling(body)[0]
        case LikelihoodRequest():
            served = registry.scoring(body.model)
        case InterpolateRequest():
            served = registry.walking(body.model)
        case VariationsRequest():
            served = registry.varying(body.model)
    limits = served.limits.model_copy(update={"max_molecules": max_molecules, "max_records": max_molecules})
    return replace(served, limits=limits, background=turn)


def path_seconds(served: ServedModel, structures: Sequence[Molecule | EnflowError], tolerance: float) -> float:
    """Return the estimated time of one molecule from its parents; 0 where the speed of the engine is not known."""
    sizes = tuple(each.n_atoms for each in structures if isinstance(each, Molecule))
    request = EngineSampleRequest(id="", seed=0, n_atoms=sizes, rtol=tolerance, atol=tolerance)
    return served.seconds_for(request) / max(1, len(sizes))
