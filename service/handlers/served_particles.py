"""A loaded model of particles: it has no elements, no bonds and no validity."""

from collections.abc import Sequence
from typing import ClassVar

from enflow.model.chem.io.formats import FileFormat
from enflow.model.chem.molecule import Molecule
from enflow.model.chem.particle_systems import ParticleSystem
from enflow.model.errors import StructureError
from enflow.service.chemistry.rdkit_pool import BondReport
from enflow.service.handlers.context import Usage
from enflow.service.handlers.served_model import ServedModel
from enflow.service.media_types import HTML, JSON, NDJSON, SSE, XYZ, ZIP
from enflow.service.problems import At, Problem
from enflow.service.protocol.events import Frame
from enflow.service.rendering.molecules import RenderedMolecule, SampleResult, ScoreResult
from enflow.service.rendering.particles import (
    no_bonds,
    render_particle_frame,
    render_particle_sample,
    render_particle_score,
)
from enflow.service.schemas.requests import SampleRequest
from enflow.service.schemas.responses import ParticleFrameOut, ParticleScoreOut, ParticlesOut


class ServedParticles(ServedModel):
    """A model of a system of particles; see `ServedModel`."""

    formats: ClassVar[Sequence[str]] = (JSON, XYZ, NDJSON, SSE, HTML, ZIP)

    @property
    def system(self) -> ParticleSystem:
        """The system of the model."""
        system = self.card.system
        assert system is not None, "ServedParticles serves models of particles only"
        return system

    async def infer_bonds(
        self,
        molecule: Molecule,
        usage: Usage,  # noqa: ARG002
        *,
        describe: bool = False,  # noqa: ARG002
    ) -> BondReport:
        """Return a report without bonds."""
        return self.omit_bonds(molecule)

    def omit_bonds(self, molecule: Molecule) -> BondReport:
        """Return a report without bonds; particles have no valence."""
        return BondReport(no_bonds(molecule), 0, molecule.n_atoms)

    def render_sample(self, result: SampleResult) -> RenderedMolecule[ParticlesOut]:
        """Return generated particles as responses show them."""
        return render_particle_sample(self.card, self.system, result)

    def render_score(self, result: ScoreResult) -> RenderedMolecule[ParticleScoreOut]:
        """Return scored particles as responses show them."""
        return render_particle_score(self.card, self.system, result)

    def render_frame(self, frame: Frame) -> ParticleFrameOut:
        """Return a state along the path as responses show it."""
        return render_particle_frame(self.system, frame)

    async def read(self, data: bytes, form: FileFormat | None) -> list[Molecule | StructureError]:
        """Return the structures of an XYZ file.

        Raises:
            StructureError: the file is of another format, or cannot be read as a whole.
            Problem: the time or the memory of the call was exceeded.
        """
        if form not in (None, "xyz"):
            raise StructureError(f"found {form}, expected XYZ: particles have no bonds")
        return await self.chemistry.read(data, "xyz", self.limits.max_records)

    def prepare_structure(self, structure: Molecule) -> Molecule:
        """Return an uploaded structure as particles; its elements are not read.

        Raises:
            VocabularyError: another number of particles or of dimensions.
        """
        return self.system.taken(structure)

    def prepare_request(self, request: SampleRequest) -> SampleRequest:
        """Return a request with the number of particles of the system.

        Raises:
            Problem: a field that has no meaning for particles.
        """
        if errors := self._unfit_fields(request):
            field, reason = errors[0].at.removeprefix("/"), errors[0].message.partition(": ")[2]
            raise Problem("invalid", f"found {field}, but {self.card.name} is one of particles: {reason}", errors)
        return request.model_copy(update={"n_atoms": [self.system.n_particles] * len(request.sizes)})

    def _unfit_fields(self, request: SampleRequest) -> list[At]:
        name, n_particles = self.card.name, self.system.n_particles
        no_properties = "particles have no chemical properties"
        reasons = {
            "only": request.only != "any" and "particles have no bonds and no valence",
            "unique": request.unique and "particles have no SMILES",
            "properties": request.properties and no_properties,
            "where": request.bounds and no_properties,
            "sort": request.sort not in (None, "nll", "-nll") and f"{no_properties}; nll is allowed",
            "temperature": request.temperature != 1 and "particles have the density of their model",
            "refinements": request.refinements and "particles have the density of their model",
            "formula": request.formula is not None and "particles have no elements",
            "fragment": request.fragment is not None and "particles have no fragments",
            "n_atoms": set(request.sizes) - {None, n_particles} and f"{name} always has {n_particles} particles",
        }
        found = {field: reason for field, reason in reasons.items() if reason}
        return [At(f"/{field}", f"expected no value: {reason}") for field, reason in found.items()]
