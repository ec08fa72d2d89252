"""The fields of requests as keyword arguments. docs/api.md and `/docs` of a service explain them."""

from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict

from enflow.model.chem.molecule import MoleculeLike

Tolerance = Literal["draft", "standard", "precise"] | float
Only = Literal["any", "valid", "stable", "connected"]


class ComputeParams(TypedDict, total=False):
    """The fields of every request that computes."""

    model: str | None
    seed: int | None
    tolerance: Tolerance
    deadline_s: float | None


class SampleParams(ComputeParams, total=False):
    """The fields of a request for molecules."""

    n_molecules: int
    n_atoms: int | Sequence[int] | Mapping[str, int] | None
    formula: str | None
    fragment: MoleculeLike | Mapping[str, str] | None
    attach: Sequence[int] | None
    first_index: int
    temperature: float
    refinements: int | None
    only: Only
    frames: int
    bonds: bool
    with_nll: bool
    unique: bool
    properties: bool
    where: Mapping[str, Sequence[float | None] | bool] | None
    sort: str | None


class LikelihoodParams(ComputeParams, total=False):
    """The fields of a request for likelihoods, beside the structures."""

    target_error: float
    divergence: Literal["exact", "hutchinson"]
    probes: int | None
    draws: int | None


class InterpolateParams(ComputeParams, total=False):
    """The fields of a request for a walk, beside the structures."""

    steps: int
    on_mismatch: Literal["warn", "fail"]


class VariationsParams(ComputeParams, total=False):
    """The fields of a request for variations, beside the structure."""

    n_molecules: int
    strength: float | None
    keep: Literal["any", "types", "graph"]
    only: Only
