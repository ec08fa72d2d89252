"""The metrics of an evaluation, from generated molecules and from scores of test molecules."""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enflow.model.chem.analysis.histograms import Bins, histograms, jensen_shannon
from enflow.model.chem.analysis.metrics import Z_95, Interval, Share, stability, validity
from enflow.model.chem.analysis.plausibility import posebusters_checks
from enflow.model.chem.analysis.strain import strain
from enflow.model.chem.analysis.structures import BondedMolecule, Structures, bond_counts, bonded, compare
from enflow.model.chem.bonds import Bonds, infer_bonds
from enflow.model.chem.molecule import Molecule
from enflow.model.errors import DataError, SolverError
from enflow.model.training.evaluation.records import SampleRecord, ScoreRecord

QUANTILES = 201
"""Greatest number of test NLLs kept per size; more would change no percentile by more than 1."""

STRAIN_BINS = Bins(60, 240.0)
"""Strain energies, kcal/mol."""

NFE_BINS = Bins(60, 360.0)
"""Evaluations of the velocity."""

Histograms = Mapping[str, NDArray[np.int64]]

Composition = frozenset[tuple[int, int]]
"""Pairs of an atomic number and the number of its atoms."""


def composition(atomic_numbers: Sequence[int] | NDArray[np.int64]) -> Composition:
    """Return the composition of a molecule from its atomic numbers (N,)."""
    return frozenset(Counter(np.asarray(atomic_numbers).tolist()).items())


@dataclass(frozen=True)
class Reference:
    """The molecules with which generated ones are compared.

    Attributes:
        training: SMILES of the training molecules by `table_smiles`.
        histograms: histograms of test molecules.
        strains: strain energies of test molecules, kcal/mol.
        compositions: compositions of the training molecules.
        structures: structures of test molecules.
        shares: shares of test molecules, by the name of the metric of samples.
    """

    training: set[str]
    histograms: Histograms
    strains: list[float]
    compositions: Collection[Composition]
    structures: Structures
    shares: Mapping[str, float | None]

    @classmethod
    def of(
        cls, training: set[str], molecules: Sequence[Molecule], compositions: Collection[Composition] = frozenset()
    ) -> "Reference":
        """Return the reference of training SMILES, training compositions and test molecules."""
        bonds = [infer_bonds(m) for m in molecules]
        shares = _shares(molecules, bonds, len(molecules), training)
        shares |= _composition_shares(molecules, len(molecules), compositions)
        return cls(
            training=training,
            histograms=histograms(molecules),
            strains=strains(molecules, bonds),
            compositions=compositions,
            structures=Structures.of([mol for mol in bonded(molecules, bonds) if mol is not None]),
            shares={name: _value(share) for name, share in shares.items()},
        )


def strains(molecules: Sequence[Molecule], bonds: Sequence[Bonds]) -> list[float]:
    """Return the strain energies by MMFF94, kcal/mol, without the molecules that MMFF94 cannot relax."""
    return [e for pair in zip(molecules, bonds, strict=True) if (e := strain(*pair)) is not None]


def sample_metrics(
    generated: Sequence[SampleRecord], reference: Reference, n_checked: int = 0
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Compute the metrics of generated molecules; failed samples count as invalid.

    Shares are from 0 to 1. Validity, uniqueness and novelty follow EDM (Hoogeboom et al. 2022): they refer to all
    samples and to the largest fragment; novelty refers to the unique ones. `en_flows` follows E-NF, which refers to the
    stable molecules only. `inferred_validity` and `inferred_whole` use the bonds of `infer_bonds`, as the service does;
    for `rdkit_validity` these must come from RDKit's DetermineBonds alone. `known_composition` is the share of samples
    whose composition occurs in the training data; in `known_heavy_atoms` the number of atoms other than hydrogen does,
    in `even_electrons` the number of electrons is even. `data` has the shares of test molecules. `divergences` are
    Jensen-Shannon divergences, nats; those by type are weighted means over types. `strain` is in kcal/mol by MMFF94.

    Args:
        generated: all samples.
        reference: training and test molecules.
        n_checked: number of the first samples that PoseBusters checks ("posebusters"), 0.05 s each.

    Returns:
        The metrics, and data of plots by name; histograms have the keys "samples" and "data".

    Raises:
        SolverError: every sample failed.
        ConfigError: PoseBusters is asked for and not installed.
    """
    n, n_atoms = len(generated), sum(g.n_atoms for g in generated)
    molecules = [m for g in generated if (m := g.molecule)]
    if not molecules:
        raise SolverError(
            f"all {n} samples failed with {', '.join(sorted({g.status for g in generated}))}; expected a molecule"
        )
    stable = stability(molecules)
    bonds = [infer_bonds(molecule) for molecule in molecules]
    shares = _shares(molecules, bonds, n, reference.training)
    shares |= _composition_shares(molecules, n, reference.compositions)
    counts, energies, mols = histograms(molecules), strains(molecules, bonds), bonded(molecules, bonds)
    divergences, structures = compare(Structures.of([mol for mol in mols if mol is not None]), reference.structures)
    metrics = {
        "samples": n,
        "failed": n - len(molecules),
        "atom_stability": int(stable.stable_atoms.sum()) / n_atoms,
        **{name: _value(share) for name, share in shares.items()},
        "intervals_95": {
            "atom_stability": _pair(stable.atoms_interval),
            **{name: _pair(share.interval) for name, share in shares.items()},
        },
        "en_flows": _en_flows_shares(molecules, reference.training),
        "data": dict(reference.shares),
        "divergences": {name: jensen_shannon(each, reference.histograms[name]) for name, each in counts.items()}
        | divergences,
        "strain": _strain(energies, reference.strains, n),
        "rdkit": bonds[0].rdkit,
        "nfe_mean": float(np.mean([g.nfe for g in generated])),
    }
    if n_checked:
        metrics["posebusters"] = _posebusters(generated[:n_checked], mols)
    plots = {name: _both(each, reference.histograms[name]) for name, each in counts.items()} | structures
    plots["strain"] = _both(*(STRAIN_BINS.count(np.array(values)) for values in (energies, reference.strains)))
    plots["nfe"] = {"samples": NFE_BINS.count(np.array([float(g.nfe) for g in generated])).tolist()}
    return metrics, plots


def _shares(molecules: Sequence[Molecule], bonds: Sequence[Bonds], n: int, training: set[str]) -> dict[str, Share]:
    stable, edm = stability(molecules), validity(molecules, "EDM")
    return {
        "molecule_stability": Share(int(stable.stable.sum()), n),
        "validity": Share(len(edm.smiles), n),
        "single_fragment": Share(edm.whole, n),
        "uniqueness": edm.uniqueness,
        "novelty": edm.novelty(training),
        **{name: Share(count, n) for name, count in bond_counts(bonds).items()},
    }


def _composition_shares(
    molecules: Sequence[Molecule], n: int, compositions: Collection[Composition]
) -> dict[str, Share]:
    even = Share(sum(int(m.atomic_numbers.sum()) % 2 == 0 for m in molecules), n)
    if not compositions:
        return {"even_electrons": even}
    known = sum(composition(m.atomic_numbers) in compositions for m in molecules)
    sizes = {sum(count for number, count in each if number > 1) for each in compositions}
    heavy = sum((m.atomic_numbers > 1).sum() in sizes for m in molecules)
    return {"known_composition": Share(known, n), "known_heavy_atoms": Share(heavy, n), "even_electrons": even}


def _posebusters(generated: Sequence[SampleRecord], mols: Sequence[BondedMolecule | None]) -> dict[str, Any]:
    """Return the shares of samples that pass PoseBusters' checks.

    Args:
        generated: the samples.
        mols: the molecules with bonds of these samples and of others after them; a failed sample has no entry.
    """
    n_molecules = sum(g.molecule is not None for g in generated)
    shares = posebusters_checks([*mols[:n_molecules], *[None] * (len(generated) - n_molecules)])
    return {"samples": len(generated), **{name: _value(share) for name, share in shares.items()}}


def _en_flows_shares(molecules: list[Molecule], training: set[str]) -> dict[str, Any]:
    """Return validity, uniqueness and novelty by the convention of E-NF, each with its interval."""
    found = validity(molecules, "E-NF")
    shares = {"validity": found.validity, "uniqueness": found.uniqueness, "novelty": found.novelty(training)}
    values: dict[str, Any] = {name: _value(share) for name, share in shares.items()}
    return values | {f"{name}_interval_95": _pair(share.interval) for name, share in shares.items()}


def _strain(samples: list[float], data: list[float], n: int) -> dict[str, float | None]:
    """Return the medians with their intervals, and the share of samples with a strain energy."""
    found: dict[str, float | None] = {"share": len(samples) / n}
    for name, values in (("median", samples), ("data_median", data)):
        interval = median_interval(values)
        found |= {name: float(np.median(values)) if values else None}
        found |= {f"{name}_low": interval.low, f"{name}_high": interval.high} if interval else {}
    return found


def median_interval(values: Sequence[float]) -> Interval | None:
    """Return a 95 % interval of the median from the order statistics n/2 -+ 0.98 sqrt(n); None for few values."""
    spread = Z_95 * math.sqrt(len(values)) / 2
    low, high = math.floor(len(values) / 2 - spread), math.ceil(len(values) / 2 + spread)
    ordered = sorted(values)
    return Interval(ordered[low], ordered[high]) if low >= 0 and high < len(values) else None


def likelihood_metrics(scored: Sequence[ScoreRecord]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Compute the mean negative log-likelihood, nats per molecule, its error and parts, also without fluorine.

    Returns:
        The metrics, and the data of their plots.

    Raises:
        DataError: the solver failed for all molecules but one.
    """
    succeeded = [s for s in scored if s.nll is not None]
    if len(succeeded) < 2:
        raise DataError(f"{len(succeeded)} of {len(scored)} molecules have a score; expected at least 2")
    plain = [s for s in succeeded if not s.fluorine]
    metrics = {
        **_nll("test_nll", succeeded),
        **_nll("test_nll_without_f", plain),
        "test_molecules": len(succeeded),
        "test_molecules_with_f": len(succeeded) - len(plain),
        "test_failed": len(scored) - len(succeeded),
    }
    if any(s.gain for s in succeeded):
        gain, error = _mean([s.gain for s in succeeded])
        metrics |= {"importance_weighted": {"test_nll": metrics["test_nll"] - gain, "gain": gain, "gain_se": error}}
    return metrics, {"nll": _by_size(succeeded)}


def percentiles(scored: Sequence[ScoreRecord], weights_sha256: str, noise: float = 0.0) -> dict[str, Any]:
    """Return the content of percentiles.json: ascending NLLs of test molecules by size, or their quantiles.

    Args:
        scored: scores of test molecules.
        weights_sha256: hash of the evaluated weights.
        noise: standard error of one score, nats, which the ranking of an exact NLL has to remove.
    """
    sizes = _sizes(scored)
    table = {"weights_sha256": weights_sha256, "nll": {str(n): _thinned(sizes[n]) for n in sorted(sizes)}}
    return table | ({"std_error": dict.fromkeys(table["nll"], round(noise, 2))} if noise else {})


def _sizes(scored: Sequence[ScoreRecord]) -> dict[int, list[float]]:
    sizes: dict[int, list[float]] = {}
    for s in scored:
        if s.nll is not None:
            sizes.setdefault(s.n_atoms, []).append(s.nll)
    return sizes


def _by_size(scored: Sequence[ScoreRecord]) -> list[list[float]]:
    """Return size, mean NLL and twice its standard error, for sizes with at least five molecules."""
    found = []
    for n, values in sorted(_sizes(scored).items()):
        if len(values) >= 5:
            mean, error = _mean(values)
            found.append([n, mean, 2 * error])
    return found


def _nll(name: str, scored: Sequence[ScoreRecord]) -> dict[str, Any]:
    if len(scored) < 2:
        return {}  # the standard error needs two values
    mean, error = _mean([s.nll for s in scored if s.nll is not None])
    return {name: mean, f"{name}_se": error, f"{name}_parts": _parts(scored)}


def _parts(scored: Sequence[ScoreRecord]) -> dict[str, float]:
    return {name: float(np.mean([s.parts[name] for s in scored])) for name in scored[0].parts}


def _mean(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and standard error."""
    return float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(len(values)))


def _both(samples: NDArray[np.int64], data: NDArray[np.int64]) -> dict[str, list[int]]:
    return {"samples": samples.tolist(), "data": data.tolist()}


def _value(share: Share) -> float | None:
    return share.value if share.total else None


def _pair(interval: Interval) -> list[float]:
    return [interval.low, interval.high]


def _thinned(values: list[float]) -> list[float]:
    if len(values) > QUANTILES:
        values = np.quantile(values, np.linspace(0, 1, QUANTILES)).tolist()
    return [round(value, 3) for value in sorted(values)]
