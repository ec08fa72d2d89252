"""The response documents as strict types: handlers build them, OpenAPI describes them, and tests read by them.

A field with a default is optional: it is written only where a handler sets it (`exclude_unset`). Null is a value.
"""

from typing import Annotated, Literal

from pydantic import Field

from enflow.model.flow.estimator_options import Divergence
from enflow.service.schemas.properties import PropertiesOut
from enflow.service.schemas.requests import Kept, Strict
from enflow.service.schemas.sources import FileOut, SourceOut

Position = tuple[float, float, float]
DensityPath = list[tuple[float, float]]
"""(t, log p_t of the state at t, in nats): the density along the trajectory from noise, t = 0, to data, t = 1."""


class BondsOut(Strict):
    """The bonds that RDKit inferred from the geometry; omitted where the request had `bonds: false`."""

    status: Literal["ok", "failed", "omitted"]
    method: str | None
    reason: str | None
    charge: int | None
    fragments: int | None
    rdkit: str


class PartsOut(Strict):
    """The terms of the NLL, in nats; their sum is the NLL."""

    base: float
    divergence: float
    dequantizer: float
    n_atoms: float


class FrameOut(Strict):
    """The state of a molecule at time t (0 = noise, 1 = molecule); positions in angstrom."""

    t: float
    nfe: int = Field(description="evaluations of the velocity so far")
    certainty: list[float] | None = Field(description="lead of each atom's largest type, 0 to 1; null if given")
    atomic_numbers: list[int]
    positions: list[Position]


class StructureOut(Strict):
    """The fields of a molecule in every response; `sdf` and `smiles` are null where no bonds were inferred."""

    index: int
    kind: Literal["molecule"]
    n_atoms: int
    formula: str
    smiles: str | None
    xyz: str
    sdf: str | None
    bonds: BondsOut
    valid: bool | None = Field(
        description="RDKit finds bonds that give every atom its valence (`inferred_validity` on the card); papers have "
        "another measure, EDM validity (`validity` on the card), with bonds from a table of lengths; null without bonds"
    )
    stable: bool = Field(
        description="every atom has its valence by the table of bond lengths that papers use: a convention, by which "
        "some real molecules are not stable, such as benzene from RDKit"
    )
    stable_reason: str | None = Field(description="null where `stable`, else the atoms that miss their valence")
    atom_stability: float = Field(description="share of the atoms that have their valence by that table, 0 to 1")


class MoleculeOut(StructureOut):
    """A generated molecule."""

    seed: int
    nfe: int
    solver_status: str
    nll: float | None = Field(default=None, description="with_nll: as one entry of /likelihood")
    nll_error: str = Field(default="", description="with_nll: the reason why the NLL could not be computed")
    nll_per_atom: float | None = None
    std_error: float | None = None
    parts: PartsOut | None = None
    atom_base: list[float] | None = None
    path: DensityPath | None = None
    percentile: float | None = None
    frames: list[FrameOut] | None = None
    properties: PropertiesOut | None = Field(default=None, description="where asked for; null without bonds")
    fragment_atoms: int | None = Field(default=None, description="with a fragment: its atoms, which are the first ones")
    connected: bool | None = Field(default=None, description="with a fragment: all atoms are in one piece")
    nll_of: Literal["rest given fragment"] | None = Field(default=None, description="with a fragment: what nll is of")
    fraction: float | None = Field(default=None, description="/interpolate: the share of the path, 0 to 1")
    distance: float | None = Field(default=None, description="RMSD to the first parent, angstrom, best superposition")
    kept: Kept | None = Field(default=None, description="/variations: the elements (types), the bonds too, or none")
    distance_to_end: float | None = Field(default=None, description="/interpolate: RMSD to the second parent, angstrom")


class ParticlePartsOut(Strict):
    """The terms of the NLL of particles, in nats; their sum is the NLL."""

    base: float
    divergence: float


class ParticleFrameOut(Strict):
    """The state of particles at time t (0 = noise, 1 = sample)."""

    t: float
    nfe: int = Field(description="evaluations of the velocity so far")
    positions: list[list[float]]


class ParticleStructureOut(Strict):
    """The fields of particles in every response; lengths are those of the potential."""

    index: int
    kind: Literal["particles"]
    n_particles: int
    positions: list[list[float]] = Field(description="of each particle, in the dimensions of the system")
    energy: float | None = Field(description="in units of the temperature; null where no potential is known")
    xyz: str = Field(description="every particle is written as Ar; z is zero for a system in the plane")


class ParticlesOut(ParticleStructureOut):
    """Generated particles: one sample of a system."""

    seed: int
    nfe: int
    solver_status: str
    nll: float | None = Field(default=None, description="with_nll: exact, in nats")
    nll_error: str = Field(default="", description="with_nll: the reason why the NLL could not be computed")
    log_prob: float | None = None
    log_weight: float | None = Field(default=None, description="log of exp(-energy) over the density, up to log Z")
    std_error: float | None = None
    parts: ParticlePartsOut | None = None
    atom_base: list[float] | None = None
    path: DensityPath | None = None
    frames: list[ParticleFrameOut] | None = None


class FailedOut(Strict):
    """A molecule that could not be generated, and the reason."""

    index: int
    reason: str
    detail: str


class AttemptsOut(Strict):
    """The numbers of computed, found and rejected molecules; both counts of rejections add up to tried - found."""

    tried: int
    found: int
    rejected: dict[str, int] = Field(description="by kind, such as not valid, duplicate, or the solver's status")
    reasons: dict[str, int] = Field(description="the same rejections, each kind in a sentence")


class ModelOut(Strict):
    """The weights that computed a response."""

    name: str
    sha256: str


class UsageOut(Strict):
    """Milliseconds in the queue, on the device and for the bonds; evaluations of the velocity over all molecules."""

    queue_ms: float
    integrate_ms: float
    bonds_ms: float
    nfe: int


class SampleResponse(Strict):
    """Generated molecules, in the order of their index, or as `sort` asks."""

    seed: int
    model: ModelOut
    tolerance: float = Field(description="of the solver, as a number")
    temperature: float | None = Field(default=None, description="/sample: standard deviation of the noise")
    refinements: int = Field(description="times that each was generated again")
    molecules: list[Annotated[MoleculeOut | ParticlesOut, Field(discriminator="kind")]]
    failed: list[FailedOut]
    attempts: AttemptsOut
    usage: UsageOut
    sort: str | None = Field(default=None, description="the order of the molecules, where one was asked for")


class VariationsResponse(SampleResponse):
    """Variations of a molecule, in the order of their index."""

    molecules: list[MoleculeOut]  # type: ignore[assignment]


class WalkResponse(Strict):
    """Molecules decoded from latents, in the order of the walk."""

    seed: int
    model: ModelOut
    tolerance: float = Field(description="of the solver; smaller than the one asked for, so that parents come back")
    refinements: int = Field(description="times that each was generated again: 0")
    molecules: list[MoleculeOut]
    failed: list[FailedOut]
    usage: UsageOut
    warnings: list[str] = Field(default=[], description="/interpolate: structures that do not come back")


class ErrorItemOut(Strict):
    """One error and its place."""

    at: str
    message: str


class ProblemOut(Strict):
    """RFC 9457 problem details."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    errors: list[ErrorItemOut]


class EstimateOut(Strict):
    """The estimator of a score, and what it took."""

    divergence: Divergence
    probes: int = Field(description="Hutchinson probes per node; 0 where the divergence is exact")
    draws: int = Field(description="draws of the dequantizer")
    nfe: int
    solver_status: str
    quadrature_error: float


class ScoreOut(StructureOut, EstimateOut, SourceOut):
    """The negative log-likelihood bound of one uploaded structure, in nats."""

    nll: float
    nll_per_atom: float
    std_error: float | None
    parts: PartsOut
    atom_base: list[float] = Field(description="the share of each atom in the part `base`: large where it is unlikely")
    path: DensityPath = Field(description="of one draw; an estimate where the divergence is one")
    percentile: float | None = Field(description="share in % of held-out QM9 molecules of this size with a lower NLL")


class ParticleScoreOut(ParticleStructureOut, EstimateOut, SourceOut):
    """The negative log-likelihood of uploaded particles, in nats."""

    nll: float
    log_prob: float
    log_weight: float | None
    std_error: float | None
    parts: ParticlePartsOut
    atom_base: list[float]
    path: DensityPath


class ScoreErrorOut(FileOut):
    """A structure that could not be scored, and the reason."""

    index: int
    name: str = Field(default="", description="the title in the file, where the record could be read")
    error: ProblemOut


class LikelihoodResponse(Strict):
    """One entry per structure, in order."""

    seed: int
    model: ModelOut
    tolerance: float = Field(description="of the solver, as a number")
    results: list[Annotated[ScoreOut | ParticleScoreOut, Field(discriminator="kind")] | ScoreErrorOut]
    usage: UsageOut
