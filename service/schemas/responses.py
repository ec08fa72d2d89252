"""What is answered, as strict types: the OpenAPI description is made of them, and the tests read answers by them."""

from typing import Annotated, Any, Literal

from pydantic import Field

from enflow.service.schemas.requests import Strict
from enflow.service.settings import RequestLimits


class BondsOut(Strict):
    """What RDKit made of the geometry."""

    status: Literal["ok", "failed"]
    method: str | None
    reason: str | None
    charge: int | None
    fragments: int | None
    rdkit: str


class PartsOut(Strict):
    """The terms of the NLL, in nats: they sum to it."""

    base: float
    divergence: float
    dequantizer: float
    n_atoms: float


class FrameOut(Strict):
    """A molecule on its way at time t (0 = noise, 1 = molecule); positions in angstrom."""

    t: float
    nfe: int = Field(description="evaluations of the velocity so far")
    certainty: list[float] = Field(description="how far each atom's type is settled, 0 to 1")
    atomic_numbers: list[int]
    positions: list[tuple[float, float, float]]


Path = list[tuple[float, float]]
"""(t, log p_t of the state there, nats): how the density changes from noise, t = 0, to the molecule, t = 1."""


class MoleculeOut(Strict):
    """A generated molecule; `sdf` and `smiles` are null where no bonds could be inferred, and `bonds` says why."""

    index: int
    seed: int
    kind: Literal["molecule"] = "molecule"
    n_atoms: int
    formula: str
    smiles: str | None
    xyz: str
    sdf: str | None
    bonds: BondsOut
    valid: bool
    stable: bool
    atom_stability: float
    nfe: int
    solver_status: str
    nll: float | None = Field(default=None, description="with_nll: as one entry of /likelihood")
    nll_error: str | None = Field(default=None, description="with_nll: the reason why the NLL could not be computed")
    nll_per_atom: float | None = None
    std_error: float | None = None
    parts: PartsOut | None = None
    atom_base: list[float] | None = None
    path: Path | None = None
    percentile: float | None = None
    frames: list[FrameOut] | None = None
    fraction: float | None = Field(default=None, description="/interpolate: the share of the way, 0 to 1")
    distance: float | None = Field(
        default=None, description="RMSD from the first parent, in angstrom: atoms matched, best superposition"
    )
    distance_to_end: float | None = Field(default=None, description="/interpolate: that from the second parent")


class ParticlePartsOut(Strict):
    """The terms of the NLL of particles, in nats: they sum to it."""

    base: float
    divergence: float


class ParticleFrameOut(Strict):
    """Particles on their way at time t (0 = noise, 1 = sample)."""

    t: float
    nfe: int = Field(description="evaluations of the velocity so far")
    positions: list[list[float]]


class ParticlesOut(Strict):
    """Generated particles: a sample of a system whose energy is known; lengths are those of the potential."""

    index: int
    seed: int
    kind: Literal["particles"]
    n_particles: int
    positions: list[list[float]] = Field(description="of each particle, in as many dimensions as the system has")
    energy: float | None = Field(description="in units of the temperature; null where no potential is known")
    xyz: str = Field(description="every particle is written as Ar; what a system in the plane has not is zero")
    nfe: int
    solver_status: str
    nll: float | None = Field(default=None, description="with_nll: exact, in nats")
    nll_error: str | None = Field(default=None, description="with_nll: the reason why the NLL could not be computed")
    log_prob: float | None = None
    log_weight: float | None = Field(default=None, description="log of exp(-energy) over the density, up to log Z")
    std_error: float | None = None
    parts: ParticlePartsOut | None = None
    atom_base: list[float] | None = None
    path: Path | None = None
    frames: list[ParticleFrameOut] | None = None


class FailedOut(Strict):
    """A molecule that did not come, and why."""

    index: int
    reason: str
    detail: str


class AttemptsOut(Strict):
    """How many molecules were computed for this answer, how many are in it, and what was wrong with the others.

    Both counts add up to tried - found.
    """

    tried: int
    found: int
    rejected: dict[str, int] = Field(description="by kind: not valid, not stable, no structure, or the solver's words")
    reasons: dict[str, int] = Field(description="the same, each in a sentence")


class ModelOut(Strict):
    """Which weights answered."""

    name: str
    sha256: str


class UsageOut(Strict):
    """Milliseconds in the queue, on the device, for the bonds; evaluations of the velocity over all molecules."""

    queue_ms: float
    integrate_ms: float
    bonds_ms: float
    nfe: int


class SampleResponse(Strict):
    """Generated molecules, in the order of their index."""

    seed: int
    model: ModelOut
    molecules: list[Annotated[MoleculeOut | ParticlesOut, Field(discriminator="kind")]]
    failed: list[FailedOut]
    attempts: AttemptsOut
    usage: UsageOut


class WalkResponse(Strict):
    """Molecules decoded from latents, in the order of the walk."""

    seed: int
    model: ModelOut
    molecules: list[MoleculeOut]
    failed: list[FailedOut]
    usage: UsageOut


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


class ScoreOut(Strict):
    """The negative log-likelihood bound of one uploaded structure, in nats."""

    index: int
    kind: Literal["molecule"] = "molecule"
    formula: str
    n_atoms: int
    smiles: str | None
    xyz: str
    sdf: str | None
    bonds: BondsOut
    valid: bool
    stable: bool
    atom_stability: float
    nll: float
    nll_per_atom: float
    std_error: float | None
    parts: PartsOut
    atom_base: list[float] = Field(description="what each atom takes of the part base: where it is unlikely")
    path: Path = Field(description="of one draw; an estimate where the divergence is one")
    percentile: float | None = Field(description="share in % of held-out QM9 molecules of this size with a lower NLL")
    divergence: Literal["exact", "hutchinson"]
    probes: int
    draws: int
    nfe: int
    solver_status: str
    quadrature_error: float


class ParticleScoreOut(Strict):
    """The negative log-likelihood of uploaded particles, in nats."""

    index: int
    kind: Literal["particles"]
    n_particles: int
    positions: list[list[float]]
    energy: float | None
    xyz: str
    nll: float
    log_prob: float
    log_weight: float | None
    std_error: float | None
    parts: ParticlePartsOut
    atom_base: list[float]
    path: Path
    divergence: Literal["exact", "hutchinson"]
    probes: int
    draws: int
    nfe: int
    solver_status: str
    quadrature_error: float


class ScoreErrorOut(Strict):
    """A structure that could not be scored, and why."""

    index: int
    error: ProblemOut


class LikelihoodResponse(Strict):
    """One entry per structure, in order."""

    seed: int
    model: ModelOut
    results: list[Annotated[ScoreOut | ParticleScoreOut, Field(discriminator="kind")] | ScoreErrorOut]
    usage: UsageOut


class QueueOut(Strict):
    """Molecules that wait, and that run."""

    waiting: int
    running: int


class HealthOut(Strict):
    """Alive, and able to compute; the queue is that of all models."""

    status: Literal["ok", "failing"]
    reason: str
    step_age_s: float | None = Field(description="seconds since the device last finished a step; null before the first")
    queue: QueueOut
    device: str
    models: dict[str, str] = Field(description="the state of each model's engine: ready, or why not")


class LimitsOut(RequestLimits):
    """The limits in force; `max_atoms` is that of the largest model."""

    max_atoms_by_model: dict[str, int] = Field(description="atoms of one molecule, by the name of the model")


class ModelsOut(Strict):
    """The cards of the loaded weights, and of each its kind: molecules or particles."""

    models: list[dict[str, Any]]
