"""The desk of a model of particles: nothing there has elements, bonds or a verdict."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from enflow.model.chem.molecule import Molecule
from enflow.model.chem.particle_systems import ParticleSystem
from enflow.model.errors import StructureError
from enflow.service.chemistry.rdkit_pool import BondReport, FileFormat
from enflow.service.handlers.context import Usage
from enflow.service.handlers.served_model import ServedModel
from enflow.service.media_types import HTML, JSON, NDJSON, SSE, XYZ, ZIP
from enflow.service.problems import At, Problem
from enflow.service.protocol.events import Frame, Scored
from enflow.service.rendering.molecules import RenderedMolecule
from enflow.service.rendering.particles import cluster_fields, cluster_frame, cluster_scores, unbound
from enflow.service.schemas.requests import SampleRequest


class ServedParticles(ServedModel):
    """See `ServedModel`."""

    formats: ClassVar[Sequence[str]] = (JSON, XYZ, NDJSON, SSE, HTML, ZIP)

    @property
    def system(self) -> ParticleSystem:
        """Of the model."""
        found = self.card.system
        assert found is not None, "this desk is for particles"
        return found

    async def draw(self, molecule: Molecule, usage: Usage) -> BondReport:  # noqa: ARG002
        """There is nothing to infer."""
        return BondReport(unbound(molecule), 0, molecule.n_atoms)

    async def portray(
        self, molecule: Molecule, drawing: BondReport, properties: Mapping[str, object]
    ) -> RenderedMolecule:
        """Particles with their positions and their energy."""
        energy = self.system.energy(molecule.positions)
        whole = self.system.molecule(molecule.positions, molecule.name, {**properties, "energy": energy})
        return RenderedMolecule(whole, drawing.bonds, cluster_fields(self.system, whole))

    def frame(self, frame: Frame) -> dict[str, Any]:
        """Positions on the way."""
        return cluster_frame(self.system, frame)

    def numbers(self, scored: Scored, molecule: Molecule) -> dict[str, Any]:
        """The score, which is exact, beside the energy."""
        return cluster_scores(self.system, scored, molecule)

    async def read(self, data: bytes, form: FileFormat | None) -> list[Molecule | StructureError]:
        """Particles come as XYZ."""
        if form not in (None, "xyz"):
            raise StructureError(f"found {form}, expected XYZ: particles have no bonds")
        return await self.chemistry.read(data, "xyz")

    def taken(self, structure: Molecule) -> Molecule:
        """A structure as particles, whatever its elements."""
        return self.system.taken(structure)

    def settled(self, asked: SampleRequest) -> SampleRequest:
        """A request for so many particles."""
        name, n_particles = self.card.name, self.system.n_particles
        against = {
            "only": asked.only != "any" and "particles are neither valid nor stable",
            "formula": asked.formula is not None and "particles have no elements",
            "n_atoms": set(asked.sizes) - {None, n_particles} and f"{name} always has {n_particles} particles",
        }
        errors = [
            At(f"/{field}", f"expected it to be left out: {reason}") for field, reason in against.items() if reason
        ]
        if errors:
            raise Problem(
                "invalid", f"the model {name} is of particles: {errors[0].message.partition(': ')[2]}", errors
            )
        return asked.model_copy(update={"n_atoms": [n_particles] * len(asked.sizes)})
