"""The figures of an evaluation, from the molecules that were generated and the test molecules that were scored."""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.chem.bonds import Bonds, infer_bonds
from model.chem.histograms import histograms, jensen_shannon
from model.chem.metrics import Z_95, Interval, Share, stability, validity
from model.chem.molecule import Molecule
from model.chem.strain import strain
from model.errors import DataError, SolverError
from model.training.results import Generated, Scored

QUANTILES = 201
"""Held-out NLLs kept per size at most; more would not change a percentile by one."""

Histograms = Mapping[str, NDArray[np.int64]]

Composition = frozenset[tuple[int, int]]
"""Pairs of an atomic number and how many atoms have it."""


def composition(atomic_numbers: Sequence[int] | NDArray[np.int64]) -> Composition:
    """Return the composition of a molecule with these atoms (N,)."""
    return frozenset(Counter(np.asarray(atomic_numbers).tolist()).items())


@dataclass(frozen=True)
class Reference:
    """What generated molecules are compared with.

    Attributes:
        training: SMILES of the training molecules by `table_smiles`.
        histograms: of held-out molecules.
        strains: of held-out molecules, kcal/mol.
        compositions: of the training molecules.
    """

    training: set[str]
    histograms: Histograms
    strains: list[float]
    compositions: Collection[Composition] = frozenset()

    @classmethod
    def of(
        cls, training: set[str], molecules: Sequence[Molecule], compositions: Collection[Composition] = frozenset()
    ) -> "Reference":
        """The reference that held-out molecules make."""
        energies = strains(molecules, [infer_bonds(m) for m in molecules])
        return cls(training, histograms(molecules), energies, compositions)


def strains(molecules: Sequence[Molecule], bonds: Sequence[Bonds]) -> list[float]:
    """MMFF94's strain of those molecules that it knows how to relax, kcal/mol."""
    return [e for pair in zip(molecules, bonds, strict=True) if (e := strain(*pair)) is not None]


def sample_metrics(generated: Sequence[Generated], reference: Reference) -> tuple[dict[str, Any], dict[str, Any]]:
    """Shares of generated molecules, 0 to 1, and what is drawn of them; what came to nothing counts as invalid.

    Validity, uniqueness and novelty follow EDM (Hoogeboom et al. 2022): of all molecules, the largest fragment, novel
    among the unique. `en_flows` has E-NF's own convention: of the stable molecules only. `inferred_validity` and
    `inferred_whole` take the bonds that the service finds. `known_composition` is the share whose composition occurs
    among the training molecules, `even_electrons` the share with an even number of electrons. `divergences` are
    Jensen-Shannon, nats; `strain` is kcal/mol by MMFF94, beside that of the data.

    Returns:
        The metrics, and the histograms by name: "samples" and "data".

    Raises:
        SolverError: there is no molecule among them.
    """
    n, n_atoms = len(generated), sum(g.n_atoms for g in generated)
    molecules = [m for g in generated if (m := g.molecule)]
    if not molecules:
        raise SolverError(f"none of {n} samples came to be a molecule: {sorted({g.status for g in generated})}")
    stable = stability(molecules)
    bonds = [infer_bonds(molecule) for molecule in molecules]
    shares = _shares(molecules, bonds, n, reference.training) | _counted(molecules, n, reference.compositions)
    theirs, energies = histograms(molecules), strains(molecules, bonds)
    metrics = {
        "samples": n,
        "failed": n - len(molecules),
        "atom_stability": int(stable.stable_atoms.sum()) / n_atoms,
        **{name: _value(share) for name, share in shares.items()},
        "intervals_95": {
            "atom_stability": _pair(stable.atoms_interval),
            **{name: _pair(share.interval) for name, share in shares.items()},
        },
        "en_flows": _paper(molecules, reference.training),
        "divergences": {name: jensen_shannon(counts, reference.histograms[name]) for name, counts in theirs.items()},
        "strain": _strain(energies, reference.strains, n),
        "rdkit": bonds[0].rdkit,
        "nfe_mean": float(np.mean([g.nfe for g in generated])),
    }
    drawn = {name: _both(counts, reference.histograms[name]) for name, counts in theirs.items()}
    drawn["strain"] = _both(*(_binned(values, 4.0, 60) for values in (energies, reference.strains)))
    drawn["nfe"] = {"samples": _binned([float(g.nfe) for g in generated], 6.0, 60).tolist()}
    return metrics, drawn


def _shares(molecules: list[Molecule], bonds: list[Bonds], n: int, training: set[str]) -> dict[str, Share]:
    stable, edm = stability(molecules), validity(molecules, "EDM")
    return {
        "molecule_stability": Share(int(stable.stable.sum()), n),
        "validity": Share(len(edm.smiles), n),
        "single_fragment": Share(edm.whole, n),
        "uniqueness": edm.uniqueness,
        "novelty": edm.novelty(training),
        "inferred_validity": Share(sum(each.status == "ok" for each in bonds), n),
        "inferred_whole": Share(sum(each.whole for each in bonds), n),
    }


def _counted(molecules: list[Molecule], n: int, compositions: Collection[Composition]) -> dict[str, Share]:
    """What the counts of a molecule's atoms tell; a reference without compositions leaves their share out."""
    even = Share(sum(int(m.atomic_numbers.sum()) % 2 == 0 for m in molecules), n)
    if not compositions:
        return {"even_electrons": even}
    known = sum(composition(m.atomic_numbers) in compositions for m in molecules)
    return {"known_composition": Share(known, n), "even_electrons": even}


def _paper(molecules: list[Molecule], training: set[str]) -> dict[str, Any]:
    """Validity, uniqueness and novelty by the convention of E-NF's paper, each with its interval."""
    found = validity(molecules, "E-NF")
    shares = {"validity": found.validity, "uniqueness": found.uniqueness, "novelty": found.novelty(training)}
    values: dict[str, Any] = {name: _value(share) for name, share in shares.items()}
    return values | {f"{name}_interval_95": _pair(share.interval) for name, share in shares.items()}


def _strain(samples: list[float], data: list[float], n: int) -> dict[str, float | None]:
    """Medians with their intervals, and for what share of the samples there is a strain at all."""
    found: dict[str, float | None] = {"share": len(samples) / n}
    for name, values in (("median", samples), ("data_median", data)):
        interval = median_interval(values)
        found |= {name: float(np.median(values)) if values else None}
        found |= {f"{name}_low": interval.low, f"{name}_high": interval.high} if interval else {}
    return found


def median_interval(values: Sequence[float]) -> Interval | None:
    """A 95 % interval of the median: order statistics n/2 -+ 0.98 sqrt(n), free of the distribution's shape."""
    spread = Z_95 * math.sqrt(len(values)) / 2
    low, high = math.floor(len(values) / 2 - spread), math.ceil(len(values) / 2 + spread)
    ordered = sorted(values)
    return Interval(ordered[low], ordered[high]) if low >= 0 and high < len(values) else None


def likelihood_metrics(scored: Sequence[Scored]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Mean negative log-likelihood in nats per molecule with its standard error, in parts, and without fluorine.

    Returns:
        The metrics, and what is drawn of them.

    Raises:
        DataError: fewer than two molecules could be scored.
    """
    reached = [s for s in scored if s.nll is not None]
    if len(reached) < 2:
        raise DataError(f"{len(reached)} of {len(scored)} molecules could be scored; expected at least two")
    plain = [s for s in reached if not s.fluorine]
    metrics = {
        **_nll("test_nll", reached),
        **_nll("test_nll_without_f", plain),
        "test_molecules": len(reached),
        "test_molecules_with_f": len(reached) - len(plain),
        "test_failed": len(scored) - len(reached),
    }
    if any(s.gain for s in reached):
        gain, error = _mean([s.gain for s in reached])
        metrics |= {"importance_weighted": {"test_nll": metrics["test_nll"] - gain, "gain": gain, "gain_se": error}}
    return metrics, {"nll": _by_size(reached)}


def percentiles(scored: Sequence[Scored], weights_sha256: str, noise: float = 0.0) -> dict[str, Any]:
    """Ascending NLLs of held-out molecules by size, or their quantiles where there are many, for percentiles.json.

    Their standard error, `noise`, stands beside them: whoever places an exact NLL among them has to take it off.
    """
    sizes = _sizes(scored)
    table = {"weights_sha256": weights_sha256, "nll": {str(n): _thinned(sizes[n]) for n in sorted(sizes)}}
    return table | ({"std_error": dict.fromkeys(table["nll"], round(noise, 2))} if noise else {})


def _sizes(scored: Sequence[Scored]) -> dict[int, list[float]]:
    sizes: dict[int, list[float]] = {}
    for s in scored:
        if s.nll is not None:
            sizes.setdefault(s.n_atoms, []).append(s.nll)
    return sizes


def _by_size(scored: Sequence[Scored]) -> list[list[float]]:
    """Size, mean NLL and twice its standard error, for sizes with at least five molecules."""
    found = []
    for n, values in sorted(_sizes(scored).items()):
        if len(values) >= 5:
            mean, error = _mean(values)
            found.append([n, mean, 2 * error])
    return found


def _nll(name: str, scored: Sequence[Scored]) -> dict[str, Any]:
    if len(scored) < 2:
        return {}  # a standard error takes two
    mean, error = _mean([s.nll for s in scored if s.nll is not None])
    return {name: mean, f"{name}_se": error, f"{name}_parts": _parts(scored)}


def _parts(scored: Sequence[Scored]) -> dict[str, float]:
    return {name: float(np.mean([s.parts[name] for s in scored])) for name in scored[0].parts}


def _mean(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard error."""
    return float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(len(values)))


def _both(samples: NDArray[np.int64], data: NDArray[np.int64]) -> dict[str, list[int]]:
    return {"samples": samples.tolist(), "data": data.tolist()}


def _binned(values: Sequence[float], width: float, bins: int) -> NDArray[np.int64]:
    """Counts in bins of one width from 0, the last one open."""
    which = np.clip(np.array(values) / width, 0, bins - 1).astype(np.int64)
    return np.bincount(which, minlength=bins)


def _value(share: Share) -> float | None:
    return share.value if share.total else None


def _pair(interval: Interval) -> list[float]:
    return [interval.low, interval.high]


def _thinned(values: list[float]) -> list[float]:
    if len(values) > QUANTILES:
        values = np.quantile(values, np.linspace(0, 1, QUANTILES)).tolist()
    return [round(value, 3) for value in sorted(values)]
