"""What is asked, as strict types: no unknown field, no NaN, no `true` for 1, limits where they are known.

A limit that is a setting is named by `Within`: it is checked against the `Limits` given as validation context, and
stands in the OpenAPI description with the number in force.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, ValidationInfo, model_validator
from pydantic_core import CoreSchema, core_schema

from enflow.model.config import TOLERANCES
from enflow.service.schemas.examples import METHANE, TILTED

MOST_SEED = 2**53 - 1
"""The largest integer that JSON keeps in every language."""


ANY_MODEL = "x-models"
"""In a schema: the names of the loaded models stand here in the description."""


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


class Strict(BaseModel):
    """No unknown field, no other type, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


Seed = Annotated[int, Field(ge=0, le=MOST_SEED)]
Atoms = Annotated[int, Field(ge=1), Within("max_atoms")]
Tolerance = Annotated[
    Literal["draft", "standard", "precise"] | Annotated[float, Field(ge=1e-7, le=0.1)],
    Field(description="rtol = atol of the adaptive solver, by name or as a number"),
]
Deadline = Annotated[float, Field(gt=0), Within("max_deadline_s")]
StructureFormat = Literal["xyz", "sdf", "smiles3d"]
"""smiles3d: a SMILES in each line, given a geometry by RDKit."""


def rtol(tolerance: str | float) -> float:
    """The number behind a tolerance."""
    return TOLERANCES[tolerance] if isinstance(tolerance, str) else tolerance


class RequestOptions(Strict):
    """What every request that computes may say."""

    model: Annotated[str, Field(min_length=1, max_length=100, json_schema_extra={ANY_MODEL: True})] | None = Field(
        default=None, description="name of a loaded model, see GET /models; null = the first of them"
    )
    seed: Seed | None = Field(default=None, description="null = drawn, and told in the answer")
    tolerance: Tolerance = "standard"
    deadline_s: Deadline | None = Field(default=None, description="seconds from now until the answer must be complete")


class SampleRequest(RequestOptions):
    """Generate molecules."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"n_molecules": 4, "seed": 7},
                {"n_atoms": [5, 9, 18], "seed": 1, "tolerance": "draft"},
                {"n_molecules": 2, "n_atoms": 12, "only": "valid", "seed": 3},
                {"formula": "C7H10O2", "seed": 5},
                {"model": "lj13", "seed": 5},
            ]
        }
    )

    n_molecules: Annotated[int, Field(ge=1), Within("max_molecules")] = 1
    n_atoms: Atoms | Annotated[list[Atoms], Field(min_length=1, fail_fast=True), Within("max_molecules")] | None = (
        Field(default=None, description="null = drawn from p(N); one number for all; or one for each molecule")
    )
    formula: Annotated[str, Field(pattern=r"^([A-Z][a-z]?[0-9]{0,4})+$", max_length=40)] | None = Field(
        default=None, description="of all molecules, such as C7H10O2: p(geometry | formula) by a model of its own"
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
        if self.formula is not None and self.n_atoms is not None:
            raise ValueError("found formula and n_atoms; expected one of them")
        return self

    @property
    def sizes(self) -> tuple[int | None, ...]:
        """n_atoms of each molecule, None = to be drawn."""
        return tuple(self.n_atoms) if isinstance(self.n_atoms, list) else (self.n_atoms,) * self.n_molecules


class StructureText(Strict):
    """Structures as the text of a file, one record or many."""

    format: StructureFormat
    data: str


class LikelihoodOptions(RequestOptions):
    """How to score; beside a file these are query parameters or form fields."""

    target_error: Annotated[float, Field(ge=0.1, le=100.0)] = Field(
        default=2.0, description="standard error in nats at which draws stop"
    )
    divergence: Literal["exact", "hutchinson"] = "hutchinson"
    probes: Annotated[int, Field(ge=1), Within("max_probes")] | None = Field(
        default=None, description="Hutchinson probes per node; null = 3"
    )
    draws: Annotated[int, Field(ge=1), Within("max_draws")] | None = Field(
        default=None, description="draws of the dequantizer; null = as many as target_error needs"
    )


class InterpolateOptions(RequestOptions):
    """How to walk from one structure to another."""

    steps: Annotated[int, Field(ge=2), Within("max_molecules")] = Field(
        default=8, description="molecules on the way, both ends included"
    )
    tolerance: Tolerance = "precise"


class VariationsOptions(RequestOptions):
    """How to vary one structure."""

    n_molecules: Annotated[int, Field(ge=1), Within("max_molecules")] = 8
    scale: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.2, description="share of fresh noise in the latent: 0 = the parent, 1 = any molecule of its size"
    )
    tolerance: Tolerance = "precise"


Structures = Annotated[list[StructureText], Field(min_length=1, fail_fast=True), Within("max_records")]


class LikelihoodRequest(LikelihoodOptions):
    """Score structures."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"structures": [{"format": "xyz", "data": METHANE}], "divergence": "exact", "seed": 0}]
        }
    )

    structures: Structures


class InterpolateRequest(InterpolateOptions):
    """Walk through the latent space between two structures of the same number of atoms."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"structures": [{"format": "xyz", "data": METHANE + TILTED}], "steps": 5, "seed": 0}]
        }
    )

    structures: Annotated[list[StructureText], Field(min_length=1, max_length=2, fail_fast=True)]


class VariationsRequest(VariationsOptions):
    """Walk through the latent space around one structure."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"structures": [{"format": "xyz", "data": METHANE}], "n_molecules": 4, "scale": 0.3, "seed": 0}
            ]
        }
    )

    structures: Annotated[list[StructureText], Field(min_length=1, max_length=1, fail_fast=True)]
