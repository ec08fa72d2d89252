"""How good a model is: what it generates, and what it says of molecules it never saw; goes on where it stopped."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from model.chem.bonds import infer_bonds
from model.chem.histograms import divergences
from model.chem.metrics import Interval, Share, stability, table_smiles, validity
from model.chem.molecule import Molecule
from model.chem.strain import strain
from model.errors import DataError, SolverError
from model.flow.molecule_flow import MoleculeFlow
from model.flow.stepper import Status
from model.terminal import Report
from model.training.data import Molecules, load_qm9
from model.training.results import Generated, Journal, Scored

FLUORINE = 9

REFERENCE = 2000
"""Test molecules that the histograms of the samples are compared with."""

QUANTILES = 201
"""Held-out NLLs kept per size at most; more would not change a percentile by one."""


@dataclass(frozen=True)
class Evaluation:
    """What is measured, and how.

    Attributes:
        samples: molecules to generate, with sizes from p(N).
        molecules: test molecules to score, drawn by `seed`.
        seed: fixes every molecule generated, chosen and dequantized, and the probes.
        tolerance: rtol = atol of the solver.
        divergence: "hutchinson" is unbiased over many molecules and some fifty times cheaper than "exact".
        probes: of Hutchinson's estimate, per molecule.
    """

    samples: int = 1000
    molecules: int = 1000
    seed: int = 0
    tolerance: float = 1e-3
    divergence: Literal["exact", "hutchinson"] = "hutchinson"
    probes: int = 1


def evaluate(
    flow: MoleculeFlow, weights_sha256: str, data: Path, folder: Path, settings: Evaluation, report: Report
) -> tuple[dict[str, Any], list[Scored]]:
    """The metrics of a card, and the scores behind its likelihood.

    Args:
        flow: the model.
        weights_sha256: of its weights; what was measured of other weights is not gone on with.
        data: the prepared qm9.npz.
        folder: of samples.jsonl and scores.jsonl, removed by nobody: a second call only measures what is new.
        settings: what is measured.
        report: told of progress.

    Raises:
        DataError: the data cannot be read, or has fewer test molecules than asked for.
        SolverError: no sample came to be a molecule.
    """
    vocabulary = flow.config.vocabulary
    test = load_qm9(data, "test", vocabulary)
    rows = chosen(len(test), settings).tolist()
    what = {"weights_sha256": weights_sha256, "seed": settings.seed, "tolerance": settings.tolerance}
    metrics: dict[str, Any] = {"tolerance": settings.tolerance, "seed": settings.seed}
    if settings.samples:
        journal = Journal(folder / "samples.jsonl", what, Generated)
        _generate(flow, settings, journal, report)
        training = known(load_qm9(data, "train", vocabulary), vocabulary, folder, report)
        reference = np.random.default_rng(0).permutation(len(test))[:REFERENCE]
        generated = [journal.entries[index] for index in range(settings.samples)]
        metrics |= sample_metrics(generated, training, molecules_of(test, vocabulary, reference.tolist()))
    if not rows:
        return metrics, []
    how = {"divergence": settings.divergence, "probes": settings.probes}
    scores = Journal(folder / "scores.jsonl", what | how | {"data_sha256": test.sha256}, Scored)
    _score(flow, settings, scores, test, rows, report)
    scored = [scores.entries[row] for row in rows]
    return metrics | likelihood_metrics(scored) | how, scored


def chosen(n_test: int, settings: Evaluation) -> NDArray[np.int64]:
    """Rows of the test split to score: the first of one random order, so that more of them contain fewer.

    Raises:
        DataError: there are not so many.
    """
    if settings.molecules > n_test:
        raise DataError(f"the test split has {n_test} molecules; found a request for {settings.molecules}")
    return np.random.default_rng(settings.seed).permutation(n_test)[: settings.molecules]


def molecules_of(data: Molecules, vocabulary: Sequence[int], rows: Sequence[int] | None = None) -> list[Molecule]:
    """Molecules of a split, all or some."""
    numbers = np.array(vocabulary)[data.atom_types]
    begin, end = data.offsets[:-1], data.offsets[1:]
    picked = range(len(data)) if rows is None else rows
    return [Molecule(numbers[begin[i] : end[i]], data.positions[begin[i] : end[i]]) for i in picked]


def known(data: Molecules, vocabulary: Sequence[int], folder: Path, report: Report) -> set[str]:
    """SMILES of the training molecules, which novelty is measured by; kept in `folder`, since they take a minute."""
    kept = folder / f"smiles-{data.sha256[:16]}.txt"
    if not kept.exists():
        report("reading the training molecules", 0, len(data))
        kept.write_text("\n".join(sorted(table_smiles(molecules_of(data, vocabulary)))))
        report("reading the training molecules", len(data), len(data))
    return set(kept.read_text().splitlines())


def sample_metrics(generated: Sequence[Generated], training: set[str], reference: Sequence[Molecule]) -> dict[str, Any]:
    """Shares of generated molecules, 0 to 1; what came to nothing counts as unstable and invalid.

    Validity, uniqueness and novelty follow EDM (Hoogeboom et al. 2022): of all molecules, the largest fragment, novel
    among the unique. `en_flows` has E-NF's own convention: of the stable molecules only. `inferred_validity` and
    `inferred_whole` take the bonds that the service finds. `divergences` are Jensen-Shannon, nats, `strain_median`
    kcal/mol by MMFF94.

    Args:
        generated: one per sample.
        training: SMILES of the training molecules by `table_smiles`.
        reference: held-out molecules whose histograms are compared with.

    Raises:
        SolverError: there is no molecule among them.
    """
    n, n_atoms = len(generated), sum(g.n_atoms for g in generated)
    molecules = [m for g in generated if (m := g.molecule)]
    if not molecules:
        raise SolverError(f"none of {n} samples came to be a molecule: {sorted({g.status for g in generated})}")
    stable, edm, en_flows = stability(molecules), validity(molecules, "EDM"), validity(molecules, "E-NF")
    bonds = [infer_bonds(molecule) for molecule in molecules]
    strains = [e for pair in zip(molecules, bonds, strict=True) if (e := strain(*pair)) is not None]
    shares = {
        "molecule_stability": Share(int(stable.stable.sum()), n),
        "validity": Share(len(edm.smiles), n),
        "single_fragment": Share(edm.whole, n),
        "uniqueness": edm.uniqueness,
        "novelty": edm.novelty(training),
        "inferred_validity": Share(sum(each.status == "ok" for each in bonds), n),
        "inferred_whole": Share(sum(each.whole for each in bonds), n),
    }
    return {
        "samples": n,
        "failed": n - len(molecules),
        "atom_stability": int(stable.stable_atoms.sum()) / n_atoms,
        **{name: _value(share) for name, share in shares.items()},
        "intervals_95": {
            "atom_stability": _pair(stable.atoms_interval),
            **{name: _pair(share.interval) for name, share in shares.items()},
        },
        "en_flows": {
            "validity": _value(en_flows.validity),
            "uniqueness": _value(en_flows.uniqueness),
            "novelty": _value(en_flows.novelty(training)),
        },
        "divergences": divergences(molecules, reference),
        "strain_median": float(np.median(strains)) if strains else None,
        "rdkit": bonds[0].rdkit,
        "nfe_mean": float(np.mean([g.nfe for g in generated])),
    }


def likelihood_metrics(scored: Sequence[Scored]) -> dict[str, Any]:
    """Mean negative log-likelihood in nats per molecule with its standard error, in parts, and without fluorine."""
    reached = [s for s in scored if s.nll is not None]
    if len(reached) < 2:
        raise DataError(f"{len(reached)} of {len(scored)} molecules could be scored; expected at least two")
    nll = np.array([s.nll for s in reached])
    fluorine = np.array([s.fluorine for s in reached])
    mean, error = _mean(nll)
    without, without_error = _mean(nll[~fluorine])
    return {
        "test_nll": mean,
        "test_nll_se": error,
        "test_nll_without_f": without,
        "test_nll_without_f_se": without_error,
        "test_molecules": len(reached),
        "test_molecules_with_f": int(fluorine.sum()),
        "test_failed": len(scored) - len(reached),
        "test_nll_parts": {name: float(np.mean([s.parts[name] for s in reached])) for name in reached[0].parts},
    }


def percentiles(scored: Sequence[Scored], weights_sha256: str) -> dict[str, Any]:
    """Ascending NLLs of held-out molecules by size, or their quantiles where there are many, for percentiles.json."""
    sizes: dict[int, list[float]] = {}
    for s in scored:
        if s.nll is not None:
            sizes.setdefault(s.n_atoms, []).append(s.nll)
    return {"weights_sha256": weights_sha256, "nll": {str(n): _thinned(sizes[n]) for n in sorted(sizes)}}


def table(metrics: Mapping[str, Any]) -> str:
    """The metrics as lines of text: name, value, and where it has one, its error or 95 % interval."""
    spreads = {name: f"{low:.4g} to {high:.4g}" for name, (low, high) in metrics.get("intervals_95", {}).items()}
    for name in ("test_nll", "test_nll_without_f"):
        if name in metrics:
            spreads[name] = f"+- {metrics[name + '_se']:.2g}"
    lines = []
    for name, value in metrics.items():
        for part, number in value.items() if isinstance(value, dict) else [("", value)]:
            shown = f"{number:.5g}" if isinstance(number, float) else str(number)
            if name != "intervals_95":
                lines.append(f"{name} {part}".ljust(32) + f"{shown:>12}  {spreads.get(name, '')}".rstrip())
    return "\n".join(lines)


def readme_row(metrics: Mapping[str, Any]) -> str:
    """A card's metrics as the README's row: shares in %, nats, evaluations; a dash for what was not measured."""
    shares = ("atom_stability", "molecule_stability", "validity", "single_fragment", "uniqueness", "novelty")
    cells = [f"{100 * metrics[name]:.1f}" if metrics.get(name) is not None else "-" for name in shares]
    for name in ("test_nll", "test_nll_without_f"):
        error = metrics.get(f"{name}_se")
        cells.append(f"{metrics[name]:.1f} ± {error:.1f}" if error is not None else "-")
    cells.append(f"{metrics['nfe_mean']:.0f}" if "nfe_mean" in metrics else "-")
    return f"| **Enflow**, `weights/qm9` | {' | '.join(cells)} |"


def _generate(flow: MoleculeFlow, settings: Evaluation, journal: Journal[Generated], report: Report) -> None:
    todo = [index for index in range(settings.samples) if index not in journal.entries]
    sizes = {index: flow.draw_n_atoms(settings.seed, index) for index in todo}
    report("sampling", settings.samples - len(todo), settings.samples)
    found = flow.samples(list(sizes.values()), settings.seed, settings.tolerance, settings.tolerance, indices=todo)
    for done, one in enumerate(found, start=settings.samples - len(todo) + 1):
        numbers = one.molecule.atomic_numbers.tolist() if one.molecule else []
        positions = one.molecule.positions.round(6).tolist() if one.molecule else []
        journal.write(Generated(one.index, sizes[one.index], numbers, positions, one.nfe, one.status.name))
        report("sampling", done, settings.samples)


def _score(
    flow: MoleculeFlow, settings: Evaluation, journal: Journal[Scored], test: Molecules, rows: list[int], report: Report
) -> None:
    todo = [row for row in rows if row not in journal.entries]
    if not todo:
        return
    molecules = dict(zip(todo, molecules_of(test, flow.config.vocabulary, todo), strict=True))
    report("scoring", len(rows) - len(todo), len(rows))
    tolerance, structures = settings.tolerance, list(molecules.values())
    found = flow.likelihoods(
        structures, settings.seed, settings.divergence, settings.probes, 1, tolerance, tolerance, indices=todo
    )
    for done, (row, likelihood) in enumerate(found, start=len(rows) - len(todo) + 1):
        molecule = molecules[row]
        nll = likelihood.nll if likelihood.status == Status.SUCCESS else None
        fluorine = bool((molecule.atomic_numbers == FLUORINE).any())
        status = likelihood.status.name
        parts = likelihood.parts if nll is not None else {}
        journal.write(Scored(row, molecule.n_atoms, fluorine, nll, parts, likelihood.nfe, status))
        report("scoring", done, len(rows))


def _mean(values: NDArray[np.float64]) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def _value(share: Share) -> float | None:
    return share.value if share.total else None


def _pair(interval: Interval) -> list[float]:
    return [interval.low, interval.high]


def _thinned(values: list[float]) -> list[float]:
    if len(values) > QUANTILES:
        values = np.quantile(values, np.linspace(0, 1, QUANTILES)).tolist()
    return [round(value, 3) for value in sorted(values)]
