"""Trials of the training on QM9: one change at a time, at one budget, judged by the same measures.

    python -m benchmarks.trials run [--passes N] [--seed S] [NAME ...]     train trials and judge them
    python -m benchmarks.trials judge NAME WEIGHTS                         judge a folder of weights
    python -m benchmarks.trials judge NAME STATE --config CONFIG           judge a state of a longer run
    python -m benchmarks.trials table                                      write the tables anew

A budget is spent at a constant rate and a cosine to zero over the last 70 %. Judged are: the squared velocity error of
held-out molecules by time, samples (sizes from p(N), tolerance 1e-3, seed 0) and the share of stable molecules by
starting time (`benchmarks.start_time`). A trial that stands in results/trials.json is not trained again.
"""

import argparse
import itertools
import json
import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import DOCS, RESULTS, write_results, write_section
from benchmarks.start_time import TIMES as STARTS
from benchmarks.start_time import start_times
from benchmarks.trial_variants import OTHER_TARGET, Trial, objective_of, trials
from enflow.model.card import read_card
from enflow.model.checkpoint import load
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.training.config import TrainConfig, read_config
from enflow.model.training.data.qm9 import MoleculeDataset, batches, data_file, load_qm9, molecules_of
from enflow.model.training.evaluation.evaluate import compositions
from enflow.model.training.evaluation.metrics import Reference, sample_metrics
from enflow.model.training.evaluation.records import SampleRecord
from enflow.model.training.export import flow_of
from enflow.model.training.flow_matching import MatchingConfig, couple, flow_matching_loss
from enflow.model.training.objectives import FlowMatching
from enflow.model.training.trainer import Trainer, compiled, starting_flow

TIMES = (0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
HELD_OUT = 16
"""Batches of 64 that every trial is judged on."""

SAMPLES = 1000
REFERENCE = 500
"""Test molecules whose strain stands beside that of the samples."""

LATE = 2
"""The first interval that counts as late: before, the error is mostly what noise cannot tell."""

FIRST_TABLE = 48_000
"""The budget of the first table of docs/training.md."""

KEPT = ("atom_stability", "molecule_stability", "validity", "single_fragment", "known_composition", "even_electrons")

Record = dict[str, Any]


def run(name: str, config: TrainConfig, passes: int, data: MoleculeDataset) -> tuple[Trainer, float]:
    """Return the training after its budget, and molecules per second of processor time."""
    shortened = replace(config, optimizer=replace(config.optimizer, warmup_steps=100, ema=0.998))
    trainer = Trainer(shortened, objective=objective_of(name, config))
    steps = passes // config.batch_size
    trainer.anneal = (3 * steps // 10, 7 * steps // 10)
    trainer.initialize(data, starting_flow(config))
    network, since, seen = compiled(trainer.network, config), 0.0, 0
    for rows in itertools.islice(batches(data.n_atoms, config.batch_size, config.seed, 0), steps):
        if trainer.step == steps // 10:  # compiled by then
            since, seen = time.process_time(), trainer.passes
        trainer.update(network, trainer.draw(data, rows, trainer.step), len(rows))
    return trainer, (trainer.passes - seen) / (time.process_time() - since)


@torch.no_grad()
def errors(network: Any, objective: FlowMatching, data: MoleculeDataset) -> list[float]:
    """Return the squared error of the positions' velocity per molecule in each interval of time.

    The noise is the same for all; it is coupled once by transport, whatever the training did.
    """
    totals, count = torch.zeros(len(TIMES) - 1), 0
    for batch, rows in enumerate(itertools.islice(batches(data.n_atoms, 64, seed=1, first_step=0), HELD_OUT)):
        source = np.random.default_rng([7, batch])
        pairs = couple(*data.stack(rows), objective.corners, objective.sigma, source)
        for i, (low, high) in enumerate(itertools.pairwise(TIMES)):
            t = low + (torch.arange(len(rows)) + 0.5) / len(rows) * (high - low)
            found = flow_matching_loss(network, pairs, t, objective.sigma)
            totals[i] += (found.x * pairs.mask.sum(-1)).sum()
        count += len(rows)
    return [round(float(total) / count, 3) for total in totals]


def judged(flow: MoleculeFlow, passes: int, objective: FlowMatching, splits: Mapping[str, MoleculeDataset]) -> Record:
    """Return all that is measured of a flow after so many passes."""
    starts = start_times(flow, splits["test"])
    return {
        "passes": passes,
        "errors": errors(flow.dynamics, objective, splits["valid"]),
        "parameters": sum(p.numel() for p in flow.dynamics.parameters()),
        **sampled(flow, splits),
        "start_time": {f"{t:g}": share.value for t, share in starts.items()},
    }


def sampled(flow: MoleculeFlow, splits: Mapping[str, MoleculeDataset]) -> Record:
    """Return what SAMPLES molecules are like: shares with their intervals, strain, evaluations."""
    vocabulary, test = flow.config.vocabulary, splits["test"]
    found = []
    for one in flow.samples([None] * SAMPLES, seed=0, refinements=0):
        numbers = one.molecule.atomic_numbers.tolist() if one.molecule else []
        positions = one.molecule.positions.tolist() if one.molecule else []
        size = flow.draw_n_atoms(0, one.index)
        found.append(SampleRecord(one.index, size, numbers, positions, one.nfe, one.status.name))
    picked = np.random.default_rng(0).permutation(len(test))[:REFERENCE].tolist()
    held_out = molecules_of(test, vocabulary, picked)
    metrics, _ = sample_metrics(found, Reference.of(set(), held_out, compositions(splits["train"], vocabulary)))
    shares = {name: round(metrics[name], 4) for name in KEPT}
    intervals = {name: [round(end, 4) for end in metrics["intervals_95"][name]] for name in KEPT}
    strain = metrics["strain"]["median"]
    return {"samples": SAMPLES, **shares, "intervals_95": intervals, "strain": strain, "nfe": metrics["nfe_mean"]}


def came(one: Record, other: Record | None) -> str:
    """One line: what a trial gave against the trial that it is compared with."""
    if other is None or "molecule_stability" not in one or "molecule_stability" not in other:
        return ""
    (low, high), (its_low, its_high) = (each["intervals_95"]["molecule_stability"] for each in (one, other))
    word = "more" if low > its_high else "fewer" if high < its_low else "as many"
    middle, end = (
        sum(one["errors"][part]) / sum(other["errors"][part]) - 1 for part in (slice(1, LATE), slice(LATE, 9))
    )
    return f"{word} stable molecules; error {100 * middle:+.1f} % at t from 0.25 to 0.5, {100 * end:+.1f} % later"


def known() -> list[Record]:
    """Return what results/trials.json holds."""
    path = RESULTS / "trials.json"
    return json.loads(path.read_text())["trials"] if path.exists() else []


def enter(record: Record) -> None:
    """Put a record in the place of its predecessor, and write the tables anew."""
    same = ("name", "budget", "seed")
    records = [one for one in known() if any(one[key] != record[key] for key in same)]
    report([*records, record])


def late(one: Record) -> float:
    """Return the errors of the later intervals, added."""
    return float(sum(one["errors"][LATE:]))


def section(records: Sequence[Record]) -> str:
    """Return the table of the first budget in Markdown: the first budget from fresh weights, best first."""
    chosen = sorted((one for one in records if one["budget"] == FIRST_TABLE and one["seed"] == 0), key=late)
    (reference,) = (one for one in chosen if one["name"] == "base")
    spans = [f"{low:g} to {high:g}" for low, high in itertools.pairwise(TIMES)][1:]
    header = ["", *spans, "late, change", "stable %", "nfe", "per s"]
    late_times = f"`late` is from t = {TIMES[LATE]:g}."
    lines = [
        f"After {FIRST_TABLE:,} molecules; squared velocity error of the positions per molecule, by time. {late_times}",
        "`stable %` counts atoms; `nfe` is the number of evaluations; `per s` is molecules per second.",
        "",
    ]
    lines += _line(header), "|---" * len(header) + "|"
    for one in chosen:
        name, change = one["name"], f"{100 * (late(one) / late(reference) - 1):+.1f} %"
        told = "another target" if name == OTHER_TARGET else "" if name == "base" else change
        stable = f"{100 * one['atom_stability']:.1f}" if "atom_stability" in one else ""
        numbers = [f"{error:.2f}" for error in one["errors"][1:]]
        lines.append(_line([name, *numbers, told, stable, str(one.get("nfe", "")), str(one["molecules_per_s"])]))
    return "\n".join(lines)


HEADER = (
    "trial", "passes", "seed", "size", "atoms %", "molecules %", "valid %", "known %", "strain", "nfe", "middle",
    "late", "per s",
)  # fmt: skip
LEGEND = """`passes` are in thousands; `size` is in million parameters; `atoms %` and `molecules %` are the stable
shares, with the 95 % interval; `known %` is the share whose composition occurs in the training data; `strain` is the
median in kcal/mol; `middle` and `late` are the velocity errors at t from 0.25 to 0.5 and from 0.5 on."""


def row(one: Record) -> list[str]:
    """Return a row of the table of trials."""
    low, high = (100 * end for end in one["intervals_95"]["molecule_stability"])
    shares = {name: f"{100 * one[name]:.1f}" for name in KEPT}
    return [
        one["name"], f"{one['passes'] / 1000:.0f}", str(one["seed"]), f"{one['parameters'] / 1e6:.2f}",
        shares["atom_stability"], f"{shares['molecule_stability']} ({low:.1f}-{high:.1f})", shares["validity"],
        shares["known_composition"], f"{one['strain']:.1f}", f"{one['nfe']:.1f}", f"{sum(one['errors'][1:LATE]):.2f}",
        f"{late(one):.2f}", str(one.get("molecules_per_s", "")),
    ]  # fmt: skip


def tables(records: Sequence[Record]) -> str:
    """Return the tables of docs/training.md: what was measured, where molecules are lost, what was expected."""
    full = sorted((one for one in records if "start_time" in one), key=lambda one: (one["budget"], one["name"]))
    starts = ["stable % from t =", *("data" if t == 1.0 else f"{t:g}" for t in STARTS)]
    lost = [[one["name"], *(f"{100 * share:.1f}" for share in one["start_time"].values())] for one in full]
    found = [LEGEND, _table(HEADER, [row(one) for one in full]), _table(starts, lost)]
    if predicted := [outcome(one) for one in full if one["came"]]:
        found.append("\n".join(predicted))
    return "\n\n".join(found)


def outcome(one: Record) -> str:
    """Return the list item with the expectation and the finding of a trial."""
    item = f"- **{one['name']}.** Expected: {one['expected']}. Found: {one['came']}."
    return textwrap.fill(item, 120, subsequent_indent="  ")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join([_line(header), "|---" * len(header) + "|", *map(_line, rows)])


def report(records: Sequence[Record]) -> None:
    """Write results/trials.json and both pages."""
    full = [row(one) for one in records if "start_time" in one]
    write_results("trials", "Trials of the training", list(HEADER), full, {"times": TIMES, "trials": records})
    write_section(DOCS / "training.md", "ablation", section(records))
    write_section(DOCS / "training.md", "trials", tables(records))


def compared(record: Record, trial: Trial | None) -> Record:
    """Return the record with what was expected and what came, against the record of the same budget and seed."""
    against = "continued" if trial is None else trial.against
    others = {one["name"]: one for one in known() if (one["budget"], one["seed"]) == (record["budget"], record["seed"])}
    expected = "" if trial is None else trial.expected
    return record | {"expected": expected, "came": came(record, others.get(against))}


def judge(name: str, place: Path, config: Path | None, splits: Mapping[str, MoleculeDataset]) -> None:
    """Judge the averaged weights of a training state, or with no configuration those of a folder."""
    if config is None:
        flow, metrics = load(place), read_card(place).metrics
        passes, seed = int(metrics["training_passes"]), 0
    else:
        trainer = Trainer(read_config(config))
        trainer.load(place)
        flow, passes, seed = flow_of(trainer, splits["train"]), trainer.passes, trainer.config.seed
    objective = FlowMatching(flow.config, MatchingConfig(), "cpu")
    record = {"name": name, "budget": passes, "seed": seed}
    enter(compared(record | judged(flow, passes, objective, splits), None))


def try_out(name: str, passes: int, seed: int, splits: Mapping[str, MoleculeDataset]) -> None:
    """Train a trial and judge it, unless it was."""
    if any((one["name"], one["budget"], one["seed"]) == (name, passes, seed) for one in known()):
        return
    trial = trials()[name]
    config = replace(trial.config, seed=seed or trial.config.seed)
    trainer, speed = run(name, config, passes, splits["train"])
    flow = flow_of(trainer, splits["train"])
    record = {"name": name, "budget": passes, "seed": seed, "molecules_per_s": round(speed)}
    enter(compared(record | judged(flow, trainer.passes, objective_of(name, config), splits), trial))


def arguments() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("names", nargs="*", metavar="NAME")
    running.add_argument("--passes", type=int, default=FIRST_TABLE)
    running.add_argument("--seed", type=int, default=0)
    judging = commands.add_parser("judge")
    judging.add_argument("name", metavar="NAME")
    judging.add_argument("place", type=Path, metavar="WEIGHTS_OR_STATE")
    judging.add_argument("--config", type=Path)
    commands.add_parser("table")
    return parser.parse_args()


def main(wanted: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    if wanted.command == "table":
        report(known())
        return
    splits = {split: load_qm9(data_file(), split) for split in ("train", "valid", "test")}
    if wanted.command == "judge":
        judge(wanted.name, wanted.place, wanted.config, splits)
        return
    for name in wanted.names or trials():
        try_out(name, wanted.passes, wanted.seed, splits)


if __name__ == "__main__":
    main(arguments())
