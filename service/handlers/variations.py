"""The handler of /variations: add noise to a molecule and remove it by the flow, as often as needed."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from enflow.model.chem.analysis.rejection import Rejection
from enflow.model.chem.bonds import Bonds
from enflow.model.chem.molecule import Molecule
from enflow.model.errors import EnflowError
from enflow.service.chemistry.rdkit_pool import BondReport
from enflow.service.handlers.context import HandlerContext
from enflow.service.handlers.latent_walk import distances_from, parents_of
from enflow.service.handlers.sampling import SamplingHandler
from enflow.service.handlers.served_model import ServedModel
from enflow.service.problems import Problem
from enflow.service.protocol.requests import EngineRequest, EngineVariationRequest, Size, Structure
from enflow.service.rendering.encoders import Answer
from enflow.service.rendering.molecules import RenderedMolecule, SampleResult
from enflow.service.schemas.requests import Kept, SampleRequest, VariationsOptions, rtol
from enflow.service.schemas.responses import MoleculeOut, ParticlesOut, VariationsResponse

WANTED = {"any": "", "types": "of the same atom types", "graph": "of the same graph"}


class VariationsHandler(SamplingHandler):
    """The handler of one /variations request: a sampling that begins at a molecule with noise instead of at noise.

    Args:
        served: the model.
        options: the variations.
        structures: the uploaded structures, each a molecule or its error.
        context: the seed, the caller and the stream of events.
        part: the places of the molecules to compute, counted from 0; None = all.

    Raises:
        Problem: the upload is not one structure that can be read.
    """

    def __init__(
        self,
        served: ServedModel,
        options: VariationsOptions,
        structures: Sequence[Molecule | EnflowError],
        context: HandlerContext,
        part: range | None = None,
    ) -> None:
        (self._parent,) = parents_of(structures, 1)
        sizes = [len(self._parent.atomic_numbers)] * options.n_molecules
        plain = SampleRequest(n_atoms=sizes, only=options.only, tolerance=options.tolerance, refinements=0)
        super().__init__(served, plain, context, part)
        self._options = options
        self._bonds: Bonds

    async def run(self) -> Answer:
        """Return the whole answer, molecules in the order of their index.

        Raises:
            Problem: the request is refused, or no molecule was finished in time.
        """
        report = await self._served.infer_bonds(Molecule(*self._parent), self._context.usage)
        self._bonds = report.bonds
        if self._options.keep == "graph" and report.bonds.status != "ok":
            raise Problem("invalid", f"found keep graph, but no bonds in the structure: {report.bonds.reason}")
        return await super().run()

    def engine_request(self, first_index: int, sizes: Sequence[Size]) -> EngineRequest:
        """Return the engine request for variations from an index on."""
        tolerance = rtol(self._options.tolerance)
        return EngineVariationRequest(
            **self._context.engine_fields(),
            parent=self._parent,
            count=len(sizes),
            strength=self._options.noise,
            seed=self._context.seed,
            first_index=first_index,
            rtol=tolerance,
            atol=tolerance,
            progress=self._context.streams,
        )

    @property
    def wanted(self) -> str:
        """The condition on a molecule; empty where every molecule is kept."""
        return " and ".join(filter(None, (super().wanted, WANTED[self._options.keep])))

    def rejection(self, molecule: Molecule, report: BondReport) -> Rejection | None:
        """Return the reason why a molecule is not kept; None where it is."""
        found = kept(molecule, report.bonds, self._parent, self._bonds)
        if self._options.keep != "any" and found == "none":
            return Rejection("other types", "an atom has another element than in the parent")
        if self._options.keep == "graph" and found != "graph":
            return Rejection("other graph", "the bonds between the atoms differ from the parent's")
        return super().rejection(molecule, report)

    async def render(self, result: SampleResult) -> RenderedMolecule[MoleculeOut | ParticlesOut]:
        """Return a molecule that is kept, with its distance from the parent and what it kept."""
        structure = Structure(result.molecule.atomic_numbers, result.molecule.positions)
        # A large molecule takes tens of milliseconds, during which no other request would be answered.
        distances = await asyncio.to_thread(distances_from, structure, [self._parent])
        remains = kept(result.molecule, result.report.bonds, self._parent, self._bonds)
        return await super().render(replace(result, relation={**distances, "kept": remains}))

    def response(self, molecules: Sequence[MoleculeOut | ParticlesOut]) -> VariationsResponse:
        """Return the response with the variations that were found."""
        return VariationsResponse(**self._response_fields(molecules))


def kept(molecule: Molecule, bonds: Bonds, parent: Structure, parent_bonds: Bonds) -> Kept:
    """Return the part of its parent that a variation kept; atom i of one is atom i of the other."""
    if not np.array_equal(molecule.atomic_numbers, parent.atomic_numbers):
        return "none"
    return "graph" if bonds.status == "ok" and _joined(bonds) == _joined(parent_bonds) else "types"


def _joined(bonds: Bonds) -> frozenset[frozenset[int]]:
    """Return the pairs of atoms that are bonded; the orders follow from them and the elements."""
    return frozenset(frozenset((first, second)) for first, second, _ in bonds.pairs)
