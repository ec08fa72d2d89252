"""What is asked and answered, as strict types: no unknown field, no NaN, no `true` for 1, limits where they are known.

A limit that is a setting is named by `Within`: it is checked against the `Limits` given as validation context, and
stands in the OpenAPI description with the number in force.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, ValidationInfo, model_validator
from pydantic_core import CoreSchema, core_schema

from model.config import TOLERANCES
from service.settings import Limits

MOST_SEED = 2**53 - 1
"""The largest integer that JSON keeps in every language."""


@dataclass(frozen=True)
class Within:
    """An upper limit by the name of its setting, of a number or of a length."""

    name: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_after_validator_function(
            self._check, handler(source), metadata={"pydantic_js_updates": {"x-limit": self.name}}
        )

    def _check(self, value: Any, info: ValidationInfo) -> Any:
        limit = getattr(info.context, self.name)
        size = len(value) if isinstance(value, list | tuple | str) else value
        if size > limit:
            raise ValueError(f"found {'more' if size is not value else 'a number larger'} than the limit of {limit}")
        return value


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


Seed = Annotated[int, Field(ge=0, le=MOST_SEED)]
Atoms = Annotated[int, Field(ge=1), Within("max_atoms")]
Tolerance = Annotated[
    Literal["draft", "standard", "precise"] | Annotated[float, Field(ge=1e-7, le=0.1)],
    Field(description="rtol = atol of the adaptive solver, by name or as a number"),
]
Deadline = Annotated[float, Field(gt=0), Within("max_deadline_s")]
Format = Literal["xyz", "sdf"]


def rtol(tolerance: str | float) -> float:
    """The number behind a tolerance."""
    return TOLERANCES[tolerance] if isinstance(tolerance, str) else tolerance


class Work(_Strict):
    """What every request that computes may say."""

    seed: Seed | None = Field(default=None, description="null = drawn, and told in the answer")
    tolerance: Tolerance = "standard"
    deadline_s: Deadline | None = Field(default=None, description="seconds from now until the answer must be complete")


class SampleRequest(Work):
    """Generate molecules."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"n_molecules": 4, "seed": 7},
                {"n_atoms": [5, 9, 18], "seed": 1, "tolerance": "draft"},
                {"n_molecules": 2, "n_atoms": 12, "only": "valid", "seed": 3},
            ]
        }
    )

    n_molecules: Annotated[int, Field(ge=1), Within("max_molecules")] = 1
    n_atoms: Atoms | Annotated[list[Atoms], Field(min_length=1, fail_fast=True), Within("max_molecules")] | None = (
        Field(default=None, description="null = drawn from p(N); one number for all; or one for each molecule")
    )
    first_index: Annotated[int, Field(ge=0, le=10**9)] = Field(
        default=0, description="index of the first molecule: (seed, index) fixes a molecule"
    )
    only: Literal["any", "valid", "stable"] = Field(
        default="any", description="sample on until n_molecules are found, or the limit of attempts is reached"
    )
    frames: Annotated[int, Field(ge=0), Within("max_frames")] = Field(
        default=0, description="frames of each molecule's way from noise to data"
    )
    with_nll: bool = False

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if "n_molecules" in self.model_fields_set and self.n_molecules != len(self.sizes):
            raise ValueError("found a list n_atoms that is not n_molecules long; leave n_molecules out")
        return self

    @property
    def sizes(self) -> tuple[int | None, ...]:
        """n_atoms of each molecule, None = to be drawn."""
        return tuple(self.n_atoms) if isinstance(self.n_atoms, list) else (self.n_atoms,) * self.n_molecules


class StructureText(_Strict):
    """Structures as the text of a file, one record or many."""

    format: Format
    data: str


class LikelihoodOptions(Work):
    """How to score; beside a file these are query parameters or form fields."""

    divergence: Literal["exact", "hutchinson"] = "exact"
    probes: Annotated[int, Field(ge=1), Within("max_probes")] = Field(
        default=1, description="of Hutchinson's estimator"
    )
    draws: Annotated[int, Field(ge=1), Within("max_draws")] = Field(
        default=1, description="of the dequantizer: more draws, a tighter bound"
    )


class InterpolateOptions(Work):
    """How to walk from one structure to another."""

    steps: Annotated[int, Field(ge=2), Within("max_molecules")] = Field(
        default=8, description="molecules on the way, both ends included"
    )
    tolerance: Tolerance = "precise"


class VariationsOptions(Work):
    """How to vary one structure."""

    n_molecules: Annotated[int, Field(ge=1), Within("max_molecules")] = 8
    scale: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.2, description="share of fresh noise in the latent: 0 = the parent, 1 = any molecule of its size"
    )
    tolerance: Tolerance = "precise"


Structures = Annotated[list[StructureText], Field(min_length=1, fail_fast=True), Within("max_records")]
_METHANE = "5\nmethane\nC 0 0 0\nH .63 .63 .63\nH -.63 -.63 .63\nH -.63 .63 -.63\nH .63 -.63 -.63\n"
_TILTED = _METHANE.replace("methane", "a tilted methane").replace(".63 .63 .63", ".6 .65 .64")


class LikelihoodRequest(LikelihoodOptions):
    """Score structures."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"structures": [{"format": "xyz", "data": _METHANE}], "divergence": "exact", "seed": 0}]
        }
    )

    structures: Structures


class InterpolateRequest(InterpolateOptions):
    """Walk through the latent space between two structures of the same number of atoms."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"structures": [{"format": "xyz", "data": _METHANE + _TILTED}], "steps": 5, "seed": 0}]
        }
    )

    structures: Annotated[list[StructureText], Field(min_length=1, max_length=2, fail_fast=True)]


class VariationsRequest(VariationsOptions):
    """Walk through the latent space around one structure."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"structures": [{"format": "xyz", "data": _METHANE}], "n_molecules": 4, "scale": 0.3, "seed": 0}
            ]
        }
    )

    structures: Annotated[list[StructureText], Field(min_length=1, max_length=1, fail_fast=True)]


class Bonds(_Strict):
    """What RDKit made of the geometry."""

    status: Literal["ok", "failed"]
    method: str | None
    reason: str | None
    charge: int | None
    fragments: int | None
    rdkit: str


class Parts(_Strict):
    """The terms of the NLL, in nats: they sum to it."""

    base: float
    divergence: float
    dequantizer: float
    n_atoms: float


class Frame(_Strict):
    """A molecule on its way at time t (0 = noise, 1 = molecule); positions in angstrom."""

    t: float
    certainty: list[float] = Field(description="how far each atom's type is settled, 0 to 1")
    atomic_numbers: list[int]
    positions: list[tuple[float, float, float]]


Path = list[tuple[float, float]]
"""(t, log p_t of the state there, nats): how the density changes from noise, t = 0, to the molecule, t = 1."""


class MoleculeOut(_Strict):
    """A generated molecule; `sdf` and `smiles` are null where no bonds could be inferred, and `bonds` says why."""

    index: int
    seed: int
    n_atoms: int
    formula: str
    smiles: str | None
    xyz: str
    sdf: str | None
    bonds: Bonds
    valid: bool
    stable: bool
    atom_stability: float
    nfe: int
    solver_status: str
    nll: float | None = Field(default=None, description="with_nll: as one entry of /likelihood")
    nll_per_atom: float | None = None
    std_error: float | None = None
    parts: Parts | None = None
    path: Path | None = None
    percentile: float | None = None
    frames: list[Frame] | None = None
    fraction: float | None = Field(default=None, description="/interpolate: the share of the way, 0 to 1")
    distance: float | None = Field(default=None, description="RMSD from the parent, in angstrom, best superposition")


class FailedOut(_Strict):
    """A molecule that did not come, and why."""

    index: int
    reason: str
    detail: str


class Attempts(_Strict):
    """How many molecules were computed for this answer, how many are in it, and why the others are not."""

    tried: int
    found: int
    rejected: dict[str, int]


class ModelOut(_Strict):
    """Which weights answered."""

    name: str
    sha256: str


class Usage(_Strict):
    """Milliseconds in the queue, on the device, for the bonds; evaluations of the velocity over all molecules."""

    queue_ms: float
    integrate_ms: float
    bonds_ms: float
    nfe: int


class SampleResponse(_Strict):
    """Generated molecules, in the order of their index."""

    seed: int
    model: ModelOut
    molecules: list[MoleculeOut]
    failed: list[FailedOut]
    attempts: Attempts
    usage: Usage


class WalkResponse(_Strict):
    """Molecules decoded from latents, in the order of the walk."""

    seed: int
    model: ModelOut
    molecules: list[MoleculeOut]
    failed: list[FailedOut]
    usage: Usage


class ErrorItem(_Strict):
    """One error and its place."""

    at: str
    message: str


class ProblemOut(_Strict):
    """RFC 9457 problem details."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    errors: list[ErrorItem]


class ScoreOut(_Strict):
    """The negative log-likelihood bound of one uploaded structure, in nats."""

    index: int
    formula: str
    n_atoms: int
    smiles: str | None
    xyz: str
    sdf: str | None
    bonds: Bonds
    valid: bool
    stable: bool
    atom_stability: float
    nll: float
    nll_per_atom: float
    std_error: float | None
    parts: Parts
    path: Path = Field(description="empty where the divergence is estimated")
    percentile: float | None = Field(description="share in % of held-out QM9 molecules of this size with a lower NLL")
    divergence: Literal["exact", "hutchinson"]
    probes: int
    draws: int
    nfe: int
    solver_status: str
    quadrature_error: float


class ScoreError(_Strict):
    """A structure that could not be scored, and why."""

    index: int
    error: ProblemOut


class LikelihoodResponse(_Strict):
    """One entry per structure, in order."""

    seed: int
    model: ModelOut
    results: list[ScoreOut | ScoreError]
    usage: Usage


class Queue(_Strict):
    """Molecules that wait, and that run."""

    waiting: int
    running: int


class HealthOut(_Strict):
    """Alive, and able to compute."""

    status: Literal["ok", "failing"]
    reason: str
    step_age_s: float = Field(description="seconds since the device last finished a step")
    queue: Queue
    device: str


class LimitsOut(Limits):
    """The limits in force."""


class ModelsOut(_Strict):
    """The cards of the loaded weights."""

    models: list[dict[str, Any]]
