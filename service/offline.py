"""`enflow sample` and `enflow likelihood`: the engine of the service, driven from a shell without the service."""

import json
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from model.__main__ import Device, Divergence, Json, pick_device, tell
from model.chem.bonds import Bonds, infer_bonds
from model.chem.formats import FORMATS, Format, read, write
from model.chem.metrics import stability
from model.chem.molecule import Molecule, check_vocabulary
from model.config import TOLERANCES
from model.errors import ConfigError, DataError, EnflowError, ModelError, SolverError
from model.terminal import Report, progress
from service import work
from service.card import Card, read_card
from service.settings import BUNDLED_WEIGHTS

ATTEMPTS = 50
"""Molecules generated for each one wanted, with --only, before the command gives up."""

Only = Literal["any", "valid", "stable"]
Weights = Annotated[Path, typer.Option(help="Folder with weights.safetensors and card.json.", show_default=False)]
Seed = Annotated[int | None, typer.Option(min=0, help="Fixes all noise [default: drawn, and told].")]
Tolerance = Annotated[str, typer.Option(help="Of the solver: draft, standard, precise, or a number.")]


class Engine:
    """An engine with the card of its weights."""

    def __init__(self, weights: Path, device: str) -> None:
        from model.checkpoint import load
        from service.engine import Engine as Loop

        self.card: Card = read_card(weights)
        self._loop = Loop(load(weights, pick_device(device)))

    @property
    def heading(self) -> dict[str, str]:
        """The model as every answer names it."""
        return {"name": self.card.name, "sha256": self.card.sha256}

    def answers(self, *works: work.Work) -> Iterator[work.Event]:
        """What becomes of each molecule of these works, as soon as it is known."""
        for each in works:
            self._loop.add(each)
        while not self._loop.idle:
            yield from self._loop.step()


@dataclass
class Harvest:
    """Generated molecules that are kept, by index, and what became of the others."""

    only: Only
    kept: dict[int, tuple[Molecule, Bonds]] = field(default_factory=dict)
    rejected: Counter[str] = field(default_factory=Counter)

    @property
    def tried(self) -> int:
        """Molecules that were generated, kept or not."""
        return len(self.kept) + self.rejected.total()

    def take(self, event: work.Event, provenance: Mapping[str, object]) -> None:
        """Keep a molecule, or count why not; other events say nothing of a molecule's end."""
        if isinstance(event, work.Failed):
            self.rejected[event.reason.value] += 1
        elif isinstance(event, work.Sampled):
            try:
                bare = Molecule(event.atomic_numbers, event.positions)
            except ModelError:
                self.rejected[work.Reason.STRUCTURE.value] += 1
                return
            self._judge(event, bare, provenance)

    def _judge(self, event: work.Sampled, bare: Molecule, provenance: Mapping[str, object]) -> None:
        bonds = infer_bonds(bare)
        met = {"any": True, "valid": bonds.status == "ok", "stable": bool(stability([bare]).stable[0])}
        if not met[self.only]:
            self.rejected[f"not {self.only}"] += 1
            return
        facts = {"index": event.index, "nfe": event.nfe, "solver_status": event.status, "stable": met["stable"]}
        if event.likelihood:
            facts["nll"] = round(event.likelihood.nll, 4)
        whole = Molecule(bare.atomic_numbers, bare.positions, properties={**provenance, **facts})
        self.kept[event.index] = whole, bonds


def sample(
    n: Annotated[int, typer.Option("-n", "--n-molecules", min=1, help="How many molecules.")] = 1,
    out: Annotated[Path | None, typer.Option(help="File to write: .xyz, .sdf, .json, or .html for a gallery.")] = None,
    n_atoms: Annotated[int | None, typer.Option(min=1, help="Atoms of each [default: drawn from p(N)].")] = None,
    seed: Seed = None,
    first_index: Annotated[int, typer.Option(min=0, help="Index of the first: (seed, index) fixes a molecule.")] = 0,
    only: Annotated[Only, typer.Option(help="Sample on until n are valid, or stable.")] = "any",
    with_nll: Annotated[bool, typer.Option("--with-nll", help="Score each molecule too.")] = False,
    tolerance: Tolerance = "standard",
    weights: Weights = BUNDLED_WEIGHTS,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Generate molecules: enflow sample -n 100 --out molecules.sdf

    Without --out they are printed as XYZ. The same seed gives the same molecules: alone, in company, and from the
    service. Valid: RDKit finds bonds in which every atom has its valence. Stable: every atom has its valence by the
    table of bond lengths that the literature uses.
    """
    form, tol = _format(out), _number(tolerance)
    seed = secrets.randbits(32) if seed is None else seed
    engine = Engine(weights, device)
    if n_atoms is not None and n_atoms > engine.card.vocabulary.max_atoms:
        raise ConfigError(f"found {n_atoms} atoms; the model knows at most {engine.card.vocabulary.max_atoms}")
    score = work.LikelihoodOptions(rtol=tol, atol=tol) if with_nll else None
    wanted = work.SampleWork(
        id="", seed=seed, n_atoms=(n_atoms,) * n, first_index=first_index, rtol=tol, atol=tol, nll=score
    )
    with progress() as report:
        harvest = _harvest(engine, wanted, only, report)
    molecules, bonds = (list(each) for each in zip(*(harvest.kept[i] for i in sorted(harvest.kept)), strict=True))
    rejected = dict(harvest.rejected)
    if out is not None:
        out.write_text(write(molecules, bonds, form), encoding="utf-8")
    if as_json:
        facts = {"seed": seed, "model": engine.heading, "tried": harvest.tried, "rejected": rejected}
        tell("", {**facts, **({"out": str(out)} if out else json.loads(write(molecules, bonds, "json")))}, as_json=True)
    elif out is None:
        typer.echo(write(molecules, bonds, "xyz"), nl=False)
    if not as_json or len(molecules) < n:
        found = f"{len(molecules)} of {harvest.tried} molecules kept, seed {seed}"
        typer.echo(found + "".join(f", {count} {reason}" for reason, count in rejected.items()), err=True)


def likelihood(
    files: Annotated[list[Path], typer.Argument(help="XYZ or SDF files, of one molecule or many.")],
    divergence: Annotated[Divergence, typer.Option(help="Exact, or Hutchinson's estimate: faster.")] = "exact",
    probes: Annotated[int, typer.Option(min=1, help="Of the estimate.")] = 1,
    draws: Annotated[int, typer.Option(min=1, help="Of the dequantizer: more draws, a tighter bound.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Fixes all noise.")] = 0,
    tolerance: Tolerance = "standard",
    weights: Weights = BUNDLED_WEIGHTS,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Score molecules: enflow likelihood molecules.sdf

    For each one the negative log-likelihood (NLL) in nats, lower = likelier; an upper bound, since atom types are
    discrete. Its parts add up to it; the percentile places it among held-out molecules of its size. A structure that
    cannot be scored gets a line that says why, the others are scored, and the exit code is 1.
    """
    tol = _number(tolerance)
    records = [record for path in files for record in _read(path)]
    engine = Engine(weights, device)
    entries = [record if isinstance(record[1], EnflowError) else _known(record, engine.card) for record in records]
    usable = {i: each for i, (_, each) in enumerate(entries) if isinstance(each, Molecule)}
    wanted = work.LikelihoodWork(
        id="",
        molecules=tuple(work.Structure(each.atomic_numbers, each.positions) for each in usable.values()),
        seed=seed,
        options=work.LikelihoodOptions(divergence, probes, draws, tol, tol),
    )
    results: dict[int, dict[str, Any]] = {
        i: {"index": i, "file": file, "error": str(each)} for i, (file, each) in enumerate(entries) if i not in usable
    }
    with progress() as report:
        for event in engine.answers(wanted) if usable else ():
            if isinstance(event, work.Scored | work.Failed):
                place = list(usable)[event.index]
                results[place] = _result(place, entries[place][0], usable[place], event, engine.card)
                report("scoring", len(results), len(entries))
    ordered = [results[i] for i in range(len(entries))]
    tell(_table(ordered), {"seed": seed, "model": engine.heading, "results": ordered}, as_json=as_json)
    raise typer.Exit(int(any("error" in each for each in ordered)))


def _harvest(engine: Engine, wanted: work.SampleWork, only: Only, report: Report) -> Harvest:
    """Molecule j of n tries the indices j, j + n, j + 2n, ... until one is kept: those that the service gives."""
    harvest, n = Harvest(only), len(wanted.n_atoms)
    provenance = {"seed": wanted.seed, "model": engine.card.name, "model_sha256": engine.card.sha256}
    report("sampling", 0, n)
    works = [wanted]
    for attempt in range(1 if only == "any" else ATTEMPTS):
        for event in engine.answers(*works):
            harvest.take(event, provenance)
            report("sampling", len(harvest.kept), n, f"{harvest.tried} tried")
        found = {(index - wanted.first_index) % n for index in harvest.kept}
        works = [_again(wanted, j, attempt + 1) for j in range(n) if j not in found]
        if not works:
            break
    if not harvest.kept:
        raise SolverError(f"none of {harvest.tried} molecules is to be kept: {dict(harvest.rejected)}")
    return harvest


def _again(wanted: work.SampleWork, j: int, attempt: int) -> work.SampleWork:
    index = wanted.first_index + j + attempt * len(wanted.n_atoms)
    return replace(wanted, id=str(index), n_atoms=wanted.n_atoms[j : j + 1], first_index=index)


def _read(path: Path) -> list[tuple[str, Molecule | EnflowError]]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    try:
        return [(str(path), record) for record in read(content)]
    except ModelError as error:
        raise DataError(f"{path}: {error}") from error


def _known(record: tuple[str, Molecule | EnflowError], card: Card) -> tuple[str, Molecule | EnflowError]:
    file, molecule = record
    assert isinstance(molecule, Molecule)
    try:
        check_vocabulary(molecule, card.vocabulary)
    except ModelError as error:
        return file, error
    return record


def _result(place: int, file: str, molecule: Molecule, event: work.Scored | work.Failed, card: Card) -> dict[str, Any]:
    head = {"index": place, "file": file, "formula": molecule.formula, "n_atoms": molecule.n_atoms}
    if isinstance(event, work.Failed):
        return {**head, "error": f"{event.reason.value}: {event.detail}"}
    return {
        **head,
        "nll": event.nll,
        "nll_per_atom": event.nll / molecule.n_atoms,
        "std_error": event.std_error,
        "parts": dict(event.parts),
        "percentile": card.percentile(molecule.n_atoms, event.nll),
        "quadrature_error": event.quadrature_error,
        "nfe": event.nfe,
        "solver_status": event.status,
    }


def _table(results: list[dict[str, Any]]) -> str:
    head = (
        f"{'':>5} {'formula':<12} {'NLL':>10} {'+-':>7}  {'base':>9} {'divergence':>10} {'dequantizer':>11} {'p(N)':>6}"
    )
    return "\n".join([head + f" {'percentile':>10}  file", *map(_line, results)])


def _line(result: dict[str, Any]) -> str:
    if "error" in result:
        return f"{result['index']:>5} {result.get('formula', ''):<12} {result['error']}  {result['file']}"
    parts, error, percentile = result["parts"], result["std_error"], result["percentile"]
    return (
        f"{result['index']:>5} {result['formula']:<12} {result['nll']:>10.2f} {_maybe(error, '.2f'):>7}  "
        f"{parts['base']:>9.2f} {parts['divergence']:>10.2f} {parts['dequantizer']:>11.2f} {parts['n_atoms']:>6.2f} "
        f"{_maybe(percentile, '.0f'):>10}  {result['file']}"
    )


def _maybe(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _format(out: Path | None) -> Format:
    ending = out.suffix.removeprefix(".").lower() if out else "xyz"
    for form in FORMATS:
        if form == ending:
            return form
    raise ConfigError(f"found the ending {ending!r} of {out}; expected one of {', '.join('.' + f for f in FORMATS)}")


def _number(tolerance: str) -> float:
    try:
        value = TOLERANCES.get(tolerance) or float(tolerance)
    except ValueError:
        value = float("nan")
    if not 1e-7 <= value <= 0.1:
        raise ConfigError(f"found tolerance {tolerance!r}; expected {', '.join(TOLERANCES)}, or a number 1e-7 to 0.1")
    return value
