"""How good a model is: what it generates, and what it says of molecules it never saw; goes on where it stopped."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from model.chem.metrics import table_smiles
from model.chem.molecule import Molecule
from model.errors import DataError
from model.flow.likelihood import Likelihood
from model.flow.molecule_flow import MoleculeFlow
from model.flow.samples import Sample
from model.flow.stepper import Status
from model.terminal import Report
from model.training.data import Molecules, load_qm9
from model.training.measures import Composition, Reference, composition, likelihood_metrics, sample_metrics
from model.training.results import Generated, Journal, Scored

FLUORINE = 9

NOISE, REPEATS = 48, 4
"""Test molecules that are scored by so many probes as well, which tells how wrong one probe is."""

REFERENCE = 2000
"""Test molecules that the samples are compared with."""


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
        draws: of the dequantizer, per molecule; several with the exact divergence give the importance-weighted bound.
    """

    samples: int = 1000
    molecules: int = 1000
    seed: int = 0
    tolerance: float = 1e-3
    divergence: Literal["exact", "hutchinson"] = "hutchinson"
    probes: int = 1
    draws: int = 1


@dataclass
class Findings:
    """What came out: the metrics of a card, what is drawn of them, the scores behind the likelihood, and their error.

    noise: the standard error of one of the scores, nats, root mean square over molecules; 0 = they are exact.
    """

    metrics: dict[str, Any]
    drawn: dict[str, Any] = field(default_factory=dict)
    scored: list[Scored] = field(default_factory=list)
    noise: float = 0.0


def evaluate(
    flow: MoleculeFlow, weights_sha256: str, data: Path, folder: Path, settings: Evaluation, report: Report
) -> Findings:
    """Generate, score, and measure both.

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
    found = Findings({"tolerance": settings.tolerance, "seed": settings.seed})
    if settings.samples:
        samples = Journal(folder / "samples.jsonl", what, Generated)
        _generate(flow, settings, samples, report)
        train = load_qm9(data, "train", vocabulary)
        training = known(train, vocabulary, folder, report)
        picked = np.random.default_rng(0).permutation(len(test))[:REFERENCE].tolist()
        reference = Reference.of(training, molecules_of(test, vocabulary, picked), compositions(train, vocabulary))
        metrics, drawn = sample_metrics([samples.entries[index] for index in range(settings.samples)], reference)
        found = Findings(found.metrics | metrics, drawn)
    if rows:
        how = {"divergence": settings.divergence, "probes": settings.probes}
        how |= {"draws": settings.draws} if settings.draws > 1 else {}
        what |= {"data_sha256": test.sha256}
        scores = Journal(folder / "scores.jsonl", what | how, Scored)
        score(flow, settings, scores, test, rows, report)
        if settings.divergence == "hutchinson":
            repeated = Journal(folder / "noise.jsonl", what | how | {"probes": REPEATS}, Scored)
            score(flow, replace(settings, probes=REPEATS), repeated, test, rows[:NOISE], report)
            found.noise = _noise([repeated.entries[row] for row in rows[:NOISE]], REPEATS / settings.probes)
        found.scored = [scores.entries[row] for row in rows]
        metrics, drawn = likelihood_metrics(found.scored)
        found = Findings(found.metrics | metrics | how, found.drawn | drawn, found.scored, found.noise)
    return found


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


def compositions(data: Molecules, vocabulary: Sequence[int]) -> set[Composition]:
    """Return the compositions that occur in a split."""
    numbers = np.split(np.array(vocabulary)[data.atom_types], data.offsets[1:-1])
    return {composition(of_molecule) for of_molecule in numbers}


def known(data: Molecules, vocabulary: Sequence[int], folder: Path, report: Report) -> set[str]:
    """SMILES of the training molecules, which novelty is measured by; kept in `folder`, since they take a minute."""
    kept = folder / f"smiles-{data.sha256[:16]}.txt"
    if not kept.exists():
        report("reading the training molecules", 0, len(data))
        kept.write_text("\n".join(sorted(table_smiles(molecules_of(data, vocabulary)))))
        report("reading the training molecules", len(data), len(data))
    return set(kept.read_text().splitlines())


def collect(
    found: Iterator[Sample], n_atoms: dict[int, int], journal: Journal[Generated], total: int, report: Report
) -> None:
    """Enter samples into a journal as they are finished.

    Args:
        found: the samples that the journal lacks.
        n_atoms: the sizes of all these, by index.
        journal: of the others already.
        total: samples there will be.
        report: told of progress, under the journal's name.
    """
    before = total - len(n_atoms)
    report(journal.path.stem, before, total)
    for done, one in enumerate(found, start=before + 1):
        numbers = one.molecule.atomic_numbers.tolist() if one.molecule else []
        positions = one.molecule.positions.round(6).tolist() if one.molecule else []
        journal.write(Generated(one.index, n_atoms[one.index], numbers, positions, one.nfe, one.status.name))
        report(journal.path.stem, done, total)


def _generate(flow: MoleculeFlow, settings: Evaluation, journal: Journal[Generated], report: Report) -> None:
    todo = [index for index in range(settings.samples) if index not in journal.entries]
    sizes = {index: flow.draw_n_atoms(settings.seed, index) for index in todo}
    found = flow.samples(list(sizes.values()), settings.seed, settings.tolerance, settings.tolerance, indices=todo)
    collect(found, sizes, journal, settings.samples, report)


def score(
    flow: MoleculeFlow, settings: Evaluation, journal: Journal[Scored], test: Molecules, rows: list[int], report: Report
) -> None:
    """Enter the scores of test molecules that a journal lacks, each as soon as it is known.

    Args:
        flow: the model.
        settings: how to score.
        journal: of what is known.
        test: the test split.
        rows: of the molecules in it, which also seed their noise.
        report: told of progress, under the journal's name.
    """
    todo = [row for row in rows if row not in journal.entries]
    molecules = dict(zip(todo, molecules_of(test, flow.config.vocabulary, todo), strict=True))
    report(journal.path.stem, len(rows) - len(todo), len(rows))
    found = flow.likelihoods(
        list(molecules.values()), settings.seed, settings.divergence, settings.probes, settings.draws,
        settings.tolerance, settings.tolerance, indices=todo,
    )  # fmt: skip
    for done, (row, likelihood) in enumerate(found, start=len(rows) - len(todo) + 1):
        journal.write(_scored(row, molecules[row], likelihood))
        report(journal.path.stem, done, len(rows))


def _noise(repeated: Sequence[Scored], fewer: float) -> float:
    """The error of scores that rest on so many times fewer probes than these."""
    errors = [scored.std_error for scored in repeated if scored.std_error is not None]
    return float(np.sqrt(fewer * np.mean(np.square(errors)))) if errors else 0.0


def _scored(row: int, molecule: Molecule, likelihood: Likelihood) -> Scored:
    reached = likelihood.status == Status.SUCCESS
    nll = likelihood.nll + likelihood.gain if reached else None
    parts = dict(likelihood.parts) if reached else {}
    if reached:
        parts["dequantizer"] += likelihood.gain  # where the gain of several draws stands
    fluorine = bool((molecule.atomic_numbers == FLUORINE).any())
    gain = likelihood.gain if reached else 0.0
    error = likelihood.std_error if reached else None
    return Scored(row, molecule.n_atoms, fluorine, nll, parts, likelihood.nfe, likelihood.status.name, gain, error)
