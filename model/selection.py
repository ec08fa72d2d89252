"""The choice of generated molecules: sampling on until enough of them meet conditions, and an order of the result."""

import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from types import MappingProxyType
from typing import Any, cast, get_args

from enflow.model.chem.analysis.descriptors import FLAGS, NUMBERS, Bounds, describe
from enflow.model.chem.analysis.metrics import stability
from enflow.model.chem.analysis.ranking import SORT_KEYS, sort_key
from enflow.model.chem.analysis.rejection import DUPLICATE, Only, Rejection, rejection
from enflow.model.chem.bonds import infer_bonds
from enflow.model.chem.molecule import Molecule, MoleculeLike, Molecules
from enflow.model.config import STANDARD
from enflow.model.errors import ConfigError
from enflow.model.flow.arguments import checked_sizes
from enflow.model.flow.completion import Completion
from enflow.model.flow.estimate import Likelihood
from enflow.model.flow.fragment_flow import FragmentFlow
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.flow.states import Sample, SizeOrFormula


@dataclass(frozen=True)
class Selection:
    """Conditions on generated molecules, and their order; the same as in `POST /sample`.

    Args:
        only: "valid" or "stable" molecules, "connected" ones, which are valid and in one piece, or "any".
        where: bounds of descriptors, both included, None = no bound: {"qed": (0.5, None), "novel": True}.
        unique: no two molecules with the same SMILES.
        sort: the name of a descriptor, "n_atoms" or "nll"; "-qed" puts the largest first. By "nll" each is scored.
        attempts: attempts for each molecule.

    Raises:
        ConfigError: a name or a bound that there is not.
    """

    only: Only = "any"
    where: Mapping[str, Bounds | bool] = field(default_factory=lambda: MappingProxyType({}))
    unique: bool = False
    sort: str = ""
    attempts: int = 50

    def __post_init__(self) -> None:
        if self.only not in get_args(Only):
            raise ConfigError(f"found only {self.only!r}, expected one of {', '.join(map(repr, get_args(Only)))}")
        for name, wanted in self.where.items():
            known = isinstance(wanted, bool) if name in FLAGS else _is_interval(wanted)
            if name not in (*NUMBERS, *FLAGS) or not known:
                raise ConfigError(
                    f"found where {name!r}: {wanted!r}, expected (lower, upper) of one of {', '.join(NUMBERS)}, "
                    f"numbers in ascending order, None for no bound; or True or False for {' or '.join(FLAGS)}"
                )
        if self.attempts < 1 or self.attempts % 1:
            raise ConfigError(f"found {self.attempts!r} attempts, expected an integer of at least 1")
        if self.sort and self.sort.removeprefix("-") not in SORT_KEYS:
            raise ConfigError(f"found sort {self.sort!r}, expected one of {', '.join(SORT_KEYS)}, or '-' before it")

    @property
    def resamples(self) -> bool:
        """True where another molecule is tried in the place of one that is not kept."""
        return self.only != "any" or bool(self.where) or self.unique


def select(
    flow: MoleculeFlow | FragmentFlow,
    n_atoms: SizeOrFormula | Sequence[SizeOrFormula],
    selection: Selection = Selection(),
    seed: int = 0,
    rtol: float = STANDARD,
    atol: float = STANDARD,
    temperature: float = 1.0,
    refinements: int | None = None,
    fragment: MoleculeLike | None = None,
    attach: Sequence[int] | None = None,
) -> Molecules:
    """Return generated molecules that meet conditions, with their descriptors as properties, in an order.

    Molecule j of n tries the indices j, j + n, j + 2n, ... until one meets the conditions. The service gives the same
    molecules for the same request.

    Args:
        flow: the flow.
        n_atoms: the number of atoms, a range of it, or the formula, of each molecule; see `MoleculeFlow.sample`.
        selection: the conditions and the order.
        seed: the seed of all noise.
        rtol, atol: relative and absolute tolerance of the solver, per molecule.
        temperature, refinements: see `MoleculeFlow.sample`.
        fragment, attach: for a `FragmentFlow`, the given atoms and where they grow; see `FragmentFlow.sample`.

    Raises:
        ConfigError: a fragment for a flow of whole molecules, or none for a `FragmentFlow`; an option out of range.
        VocabularyError: an element or a size that the model does not know.
        StructureError: a size that leaves no atom beside the fragment; an atom that is not there.

    Returns:
        The molecules that were found; a warning says how many are missing, and why others were not kept.

    Example:
        `enflow.select(flow, [None] * 20, enflow.Selection(unique=True, where={"qed": (0.5, None)}, sort="-qed"))`
    """
    given = _around(isinstance(flow, FragmentFlow), fragment, attach)
    conditions = checked_sizes(n_atoms)
    places = _Places(selection, len(conditions))
    while wanted := places.wanted():
        indices = [place + attempt * len(conditions) for place, attempt in wanted]
        sizes = [conditions[place] for place, _ in wanted]
        for sample in flow.samples(sizes, seed, rtol, atol, indices, temperature, refinements, **given):
            places.take(sample)
        places.drop_duplicates()
    if len(places.kept) < len(conditions):
        reasons = "; ".join(f"{count} x {reason}" for reason, count in places.reasons.most_common())
        warnings.warn(f"found {len(places.kept)} of {len(conditions)} molecules; not kept: {reasons}", stacklevel=2)
    found = [places.kept[place] for place in sorted(places.kept)]
    if selection.sort.removeprefix("-") == "nll":
        scores = _scores(flow, found, seed, rtol, atol)
        found = [
            each.with_properties(nll=score.nll, nll_std_error=score.std_error)
            for each, score in zip(found, scores, strict=True)
        ]
    return Molecules(sorted(found, key=lambda each: sort_key(each, selection.sort)) if selection.sort else found)


def _around(takes_fragments: bool, fragment: MoleculeLike | None, attach: Sequence[int] | None) -> dict[str, Any]:
    """Return the arguments that a flow around fragments takes; none for a flow of whole molecules."""
    if not takes_fragments:
        if fragment is not None or attach is not None:
            raise ConfigError('found a fragment, expected a flow around fragments, such as enflow.load("qm9-fragment")')
        return {}
    if fragment is None:
        raise ConfigError("found no fragment, expected one: this flow generates the atoms around a fragment")
    return {"fragment": fragment, "attach": attach}


def _scores(
    flow: MoleculeFlow | FragmentFlow, molecules: Sequence[Molecule], seed: int, rtol: float, atol: float
) -> list[Likelihood]:
    """Return the likelihoods of molecules; those around a fragment are of the other atoms, given the fragment."""
    if isinstance(flow, FragmentFlow):
        given = [range(cast("int", each.properties["fragment_atoms"])) for each in molecules]
        completions = [Completion(each, tuple(atoms)) for each, atoms in zip(molecules, given, strict=True)]
        return flow.log_prob(completions, seed, rtol=rtol, atol=atol)
    return flow.log_prob(molecules, seed, rtol=rtol, atol=atol)


class _Places:
    """The molecule of each place, and the attempts that it took."""

    def __init__(self, selection: Selection, n: int) -> None:
        self.kept: dict[int, Molecule] = {}
        self.reasons = Counter[str]()
        self._selection = selection
        self._attempts = [0] * n

    def wanted(self) -> list[tuple[int, int]]:
        """Return each place that is empty and has attempts left, with the number of its next attempt."""
        limit = self._selection.attempts if self._selection.resamples else 1
        return [(p, done) for p, done in enumerate(self._attempts) if p not in self.kept and done < limit]

    def take(self, sample: Sample) -> None:
        """Put a sample at its place, or count the reason why it is not kept."""
        place = sample.index % len(self._attempts)
        self._attempts[place] += 1
        if sample.molecule is None:
            self.reasons[f"solver: {sample.status.name}"] += 1
            return
        bonds = infer_bonds(sample.molecule)
        unstable = sample.molecule.n_atoms - int(stability([sample.molecule]).stable_atoms[0])
        descriptors = describe(sample.molecule, bonds)
        found = rejection(self._selection.only, self._selection.where, bonds, unstable, descriptors)
        if found:
            self._reject(found)
            return
        facts = descriptors.as_dict() if descriptors else {}
        self.kept[place] = sample.molecule.with_properties(smiles=bonds.smiles, **facts)

    def drop_duplicates(self) -> None:
        """Empty every place whose SMILES an earlier place has."""
        seen = set[object]()
        for place in sorted(self.kept) if self._selection.unique else ():
            smiles = self.kept[place].properties["smiles"]
            if smiles is not None and smiles in seen:
                del self.kept[place]
                self._reject(DUPLICATE)
            seen.add(smiles)

    def _reject(self, found: Rejection) -> None:
        self.reasons[found.reason] += 1


def _is_interval(wanted: object) -> bool:
    if not isinstance(wanted, tuple | list) or len(wanted) != 2:
        return False
    bounds = [bound for bound in wanted if bound is not None]
    return all(isinstance(bound, Real) and not math.isnan(bound) for bound in bounds) and bounds == sorted(bounds)
