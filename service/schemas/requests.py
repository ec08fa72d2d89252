"""The request documents as pydantic models.

Unknown fields and NaN are refused. JSON is validated in strict mode (`model_validate_json(..., strict=True)`), so that
`true` is no 1; the strings of a query or a form are converted. A limit that is a setting is named by `Within`: it is
checked against the `RequestLimits` given as validation context, and the OpenAPI description shows the number in force.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, ValidationInfo, model_validator
from pydantic_core import CoreSchema, core_schema

from enflow.model.chem.analysis.descriptors import NUMBERS, Bounds
from enflow.model.chem.analysis.rejection import Only
from enflow.model.chem.io.formats import FileFormat
from enflow.model.config import MAX_REFINEMENTS, MAX_SEED, STRENGTH, TEMPERATURES, TOLERANCES
from enflow.model.flow.estimator_options import PROBES, Divergence
from enflow.service.schemas.examples import METHANE, SAMPLE_REQUESTS, TILTED
from enflow.service.schemas.properties import Sort, Where
from enflow.service.schemas.sizes import AtomRange, Size

ANY_MODEL = "x-models"
"""A mark in a schema; the OpenAPI description replaces it by the names of the loaded models."""


@dataclass(frozen=True)
class Within:
    """An upper limit of a number or of a length, by the name of its setting.

    Without a validation context the limit is not checked: FastAPI parses a query before the limits are known.
    """

    name: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_after_validator_function(
            self._check, handler(source), metadata={"pydantic_js_updates": {"x-limit": self.name}}
        )

    def _check(self, value: Any, info: ValidationInfo) -> Any:
        if info.context is None:
            return value
        limit = getattr(info.context, self.name)
        size = len(value) if isinstance(value, list | tuple | str) else value
        if size > limit:
            raise ValueError(f"found more than the limit {self.name} of {limit}")
        return value


class Document(BaseModel):
    """A document without unknown fields and without NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Strict(Document):
    """A document whose values are never converted from another type."""

    model_config = ConfigDict(strict=True)


Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Atoms = Annotated[int, Field(ge=1), Within("max_atoms")]
Sizes = Annotated[list[Atoms], Field(min_length=1, fail_fast=True), Within("max_molecules")]
Tolerance = Annotated[
    Literal["draft", "standard", "precise"] | Annotated[float, Field(ge=1e-7, le=0.1)],
    Field(description="rtol = atol of the adaptive solver, by name or as a number"),
]
Kept = Literal["none", "types", "graph"]
"""The part of its parent that a variation kept: nothing, the element of every atom, or the bonds of every atom too."""
Deadline = Annotated[float, Field(gt=0), Within("max_deadline_s")]


def rtol(tolerance: str | float) -> float:
    """Return the number of a tolerance that may be a name."""
    return TOLERANCES[tolerance] if isinstance(tolerance, str) else tolerance


class RequestOptions(Document):
    """The options of every request that computes."""

    model: Annotated[str, Field(min_length=1, max_length=100, json_schema_extra={ANY_MODEL: True})] | None = Field(
        default=None, description="name of a loaded model, see GET /models; null = the first of them"
    )
    seed: Seed | None = Field(default=None, description="null = drawn, and returned in the answer")
    tolerance: Tolerance = "standard"
    deadline_s: Deadline | None = Field(default=None, description="seconds from now until the answer must be complete")


def _without_default(schema: dict[str, Any]) -> None:
    """Remove the default from a schema: a generated client would send it, also beside a list of n_atoms."""
    del schema["default"]


class StructureText(Document):
    """The text of a file with one structure or more."""

    format: FileFormat  # smiles3d: one SMILES in each line, which RDKit embeds in three dimensions
    data: str


class FragmentText(Document):
    """The text of a file with one structure, whose atoms stay where they are."""

    format: Literal["xyz", "sdf"]
    data: str


Attach = Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1), Within("max_atoms")]
"""Atoms of a fragment, counted from 1."""


class SampleRequest(RequestOptions):
    """A request for molecules."""

    model_config = ConfigDict(json_schema_extra={"examples": SAMPLE_REQUESTS})

    n_molecules: Annotated[int, Field(ge=1), Within("max_molecules")] = Field(
        default=1,
        description="1, or the length of the list n_atoms, where it is left out",
        json_schema_extra=_without_default,
    )
    n_atoms: Atoms | AtomRange | Sizes | None = Field(
        default=None, description="one number, a range, or a list of numbers, with the fragment; null = drawn from p(N)"
    )
    formula: Annotated[str, Field(pattern=r"^([A-Z][a-z]?[0-9]{0,4})+$", max_length=40)] | None = Field(
        default=None, description="formula of all molecules, such as C7H10O2; needs a model of p(geometry | formula)"
    )
    fragment: FragmentText | None = Field(
        default=None, description="a structure that stays where it is, to complete; needs a model of kind fragment"
    )
    attach: Attach | None = Field(
        default=None,
        description="atoms of the fragment, from 1, at which it grows: a hydrogen is removed, a heavy atom loses its "
        "hydrogens; null = where it has open bonds",
    )
    first_index: Annotated[int, Field(ge=0, le=10**9)] = Field(default=0, description="index of the first molecule")
    temperature: Annotated[float, Field(ge=TEMPERATURES[0], le=TEMPERATURES[1])] = Field(
        default=1.0, description="standard deviation of the noise; below 1 more molecules are stable, and fewer unusual"
    )
    refinements: Annotated[int, Field(ge=0, le=MAX_REFINEMENTS)] | None = Field(
        default=None, description="times that a molecule is noised and generated again; null = as the model's card says"
    )
    only: Only = Field(
        default="any",
        description="sample on until n_molecules are found, or max_attempts is reached; connected = one piece",
    )
    frames: Annotated[int, Field(ge=0), Within("max_frames")] = Field(
        default=0, description="number of frames of each trajectory from noise to data"
    )
    bonds: bool = Field(
        default=True, description="false = positions only, which is faster: no bonds, no SMILES, no SDF; valid is null"
    )
    with_nll: bool = Field(default=False, description="the NLL too; with a fragment, of the other atoms given it")
    unique: bool = Field(
        default=False, description="sample on until no two molecules have the same SMILES; the first index is kept"
    )
    properties: bool = Field(default=False, description="compute the properties of each molecule that has bonds")
    where: Where | None = Field(
        default=None, description="sample on until the properties of each molecule are within these bounds"
    )
    sort: Sort | None = Field(
        default=None,
        description="order of the answer, by a property, n_atoms or nll; a minus sign puts the largest first",
    )

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if "n_molecules" in self.model_fields_set and self.n_molecules != len(self.sizes):
            raise ValueError(
                f"found n_molecules {self.n_molecules} and {len(self.sizes)} entries of n_atoms, expected one of them"
            )
        for name in ("n_atoms", "fragment"):
            if self.formula is not None and getattr(self, name) is not None:
                raise ValueError(f"found formula and {name}, expected one of them")
        if self.attach is not None and self.fragment is None:
            raise ValueError("found attach without fragment, expected a fragment")
        by_bonds = self.only in ("valid", "connected")
        if not self.bonds and (by_bonds or self.unique or self.describes):
            wants = f"only {self.only}" if by_bonds else "unique" if self.unique else "properties, where or sort"
            raise ValueError(f"found bonds false and {wants}, expected one of them")
        if self.sort in ("nll", "-nll") and not self.with_nll:
            raise ValueError("found sort by nll without with_nll, expected with_nll: true")
        return self

    @property
    def bounds(self) -> dict[str, Bounds | bool]:
        """The bounds of properties, by the name of the property."""
        return self.where.bounds if self.where else {}

    @property
    def describes(self) -> bool:
        """True where the properties of each molecule are needed."""
        return self.properties or bool(self.bounds) or (self.sort or "").removeprefix("-") in NUMBERS

    @property
    def sizes(self) -> tuple[Size, ...]:
        """The number of atoms of each molecule; None or a range where it is drawn."""
        found = self.n_atoms.drawn if isinstance(self.n_atoms, AtomRange) else self.n_atoms
        return tuple(found) if isinstance(found, list) else (found,) * self.n_molecules


class LikelihoodOptions(RequestOptions):
    """The options of a likelihood; beside a file they are query parameters or form fields."""

    target_error: Annotated[float, Field(ge=0.1, le=100.0)] = Field(
        default=2.0, description="standard error in nats at which draws stop; with draws, it concerns the path only"
    )
    divergence: Divergence = "hutchinson"
    probes: Annotated[int, Field(ge=1), Within("max_probes")] | None = Field(
        default=None, description=f"Hutchinson probes per node; null = {PROBES}"
    )
    draws: Annotated[int, Field(ge=1), Within("max_draws")] | None = Field(
        default=None, description="draws of the dequantizer; null = as many as target_error needs"
    )


class InterpolateOptions(RequestOptions):
    """The options of a walk from one structure to another."""

    steps: Annotated[int, Field(ge=2), Within("max_molecules")] = Field(
        default=8, description="number of molecules, both ends included"
    )
    tolerance: Tolerance = "precise"
    on_mismatch: Literal["warn", "fail"] = Field(
        default="warn", description="if a structure does not come back from its own latent: say so in warnings, or fail"
    )


class VariationsOptions(RequestOptions):
    """The options of variations of one structure."""

    n_molecules: Annotated[int, Field(ge=1), Within("max_molecules")] = 8
    strength: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None,
        description="share of noise that is added to the parent and removed by the flow: 0 = the parent, 1 = any "
        f"molecule of its size; null = {STRENGTH:g}",
    )
    keep: Literal["any", "types", "graph"] = Field(
        default="any",
        description="sample on until each molecule keeps the element of every atom, or the bonds between its atoms too",
    )
    only: Only = Field(default="any", description="sample on until each is valid, stable or connected, as in /sample")
    scale: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None, description="the earlier name of strength", json_schema_extra={"deprecated": True}
    )

    @model_validator(mode="after")
    def _one_name(self) -> Self:
        if self.strength is not None and self.scale is not None:
            raise ValueError("found strength and scale, expected strength alone")
        return self

    @property
    def noise(self) -> float:
        """The share of noise, under either name."""
        given = self.scale if self.strength is None else self.strength
        return STRENGTH if given is None else given


Structures = Annotated[list[StructureText], Field(min_length=1, fail_fast=True), Within("max_records")]


class LikelihoodRequest(LikelihoodOptions):
    """A request for the likelihood of structures."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"structures": [{"format": "xyz", "data": METHANE}], "divergence": "exact", "seed": 0}]
        }
    )

    structures: Structures


class InterpolateRequest(InterpolateOptions):
    """A request for a walk between two structures of the same number of atoms."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"structures": [{"format": "xyz", "data": METHANE + TILTED}], "steps": 5, "seed": 0}]
        }
    )

    structures: Annotated[list[StructureText], Field(min_length=1, max_length=2, fail_fast=True)]


class VariationsRequest(VariationsOptions):
    """A request for molecules near one structure."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"structures": [{"format": "xyz", "data": METHANE}], "n_molecules": 4, "strength": 0.5, "seed": 0}
            ]
        }
    )

    structures: Annotated[list[StructureText], Field(min_length=1, max_length=1, fail_fast=True)]
