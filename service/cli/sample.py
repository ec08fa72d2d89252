"""`enflow sample`: molecules from a shell, the very ones that the service gives."""

import json
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from enflow.model.chem.analysis.metrics import stability
from enflow.model.chem.bonds import Bonds, infer_bonds
from enflow.model.chem.formula import parse_formula
from enflow.model.chem.io.formats import Format, write
from enflow.model.chem.molecule import Molecule
from enflow.model.chem.particle_systems import ParticleSystem
from enflow.model.cli.options import Device, Json, print_result
from enflow.model.errors import ConfigError, ModelError, SolverError
from enflow.model.progress import ProgressCallback, progress
from enflow.service.chemistry.acceptance import Only, Rejection, rejection
from enflow.service.cli.offline import OfflineEngine, ToleranceOption, Weights, number, refuse_bonds, target
from enflow.service.model_card import ModelCard
from enflow.service.protocol.events import Event, Failed, Sampled, Scored
from enflow.service.protocol.requests import EngineLikelihoodRequest, EngineSampleRequest, EstimatorOptions, Structure
from enflow.service.rendering.particles import cluster_fields, unbound
from enflow.service.settings import BUNDLED_WEIGHTS, FORMULA_WEIGHTS

ATTEMPTS = 50
"""Molecules generated for each one wanted, with --only, before the command gives up."""

SeedOption = Annotated[int | None, typer.Option(min=0, help="Fixes all noise [default: drawn, and told].")]


@dataclass
class SampleCollector:
    """Generated molecules that are kept, by index, and what became of the others, in a word and in a sentence."""

    only: Only
    kept: dict[int, tuple[Molecule, Bonds]] = field(default_factory=dict)
    rejected: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def tried(self) -> int:
        """Molecules that were generated, kept or not."""
        return len(self.kept) + self.rejected.total()

    @property
    def account(self) -> dict[str, Any]:
        """How many were tried and found, and why the others were not, as the service tells it."""
        counts = {"rejected": dict(self.rejected), "reasons": dict(self.reasons)}
        return {"tried": self.tried, "found": len(self.kept), **counts}

    def take(self, event: Event, provenance: Mapping[str, object]) -> None:
        """Keep a molecule, or count why not; other events say nothing of a molecule's end."""
        if isinstance(event, Failed):
            self._reject(Rejection(f"solver: {event.reason}", event.detail))
        elif isinstance(event, Sampled):
            try:
                bare = Molecule(event.atomic_numbers, event.positions)
            except ModelError:
                self._reject(Rejection("no structure", "atoms beyond all bounds"))
                return
            self._judge(event, bare, provenance)

    def _judge(self, event: Sampled, bare: Molecule, provenance: Mapping[str, object]) -> None:
        bonds, by_distance = infer_bonds(bare), stability([bare])
        unstable = bare.n_atoms - int(by_distance.stable_atoms[0])
        if against := rejection(self.only, bonds, unstable):
            self._reject(against)
            return
        facts = {"index": event.index, "nfe": event.nfe, "solver_status": event.status, "stable": not unstable}
        whole = Molecule(bare.atomic_numbers, bare.positions, properties={**provenance, **facts})
        self.kept[event.index] = whole, bonds

    def score(self, event: Scored) -> None:
        """Enter the likelihood of a molecule that was kept."""
        molecule, bonds = self.kept[event.index]
        facts = {**molecule.properties, "nll": round(event.nll, 4)}
        self.kept[event.index] = Molecule(molecule.atomic_numbers, molecule.positions, properties=facts), bonds

    def _reject(self, against: Rejection) -> None:
        self.rejected[against.kind] += 1
        self.reasons[against.reason or against.kind] += 1


@dataclass(kw_only=True)
class ParticleCollector(SampleCollector):
    """Generated particles: all of them are kept, with their energy."""

    system: ParticleSystem

    def _judge(self, event: Sampled, bare: Molecule, provenance: Mapping[str, object]) -> None:
        energy = self.system.energy(bare.positions)
        facts = {"index": event.index, "nfe": event.nfe, "solver_status": event.status, "energy": energy}
        self.kept[event.index] = self.system.molecule(bare.positions, "", {**provenance, **facts}), unbound(bare)


def sample(
    place: Annotated[Path | None, typer.Argument(metavar="[WEIGHTS]", help="As --weights.")] = None,
    n: Annotated[int, typer.Option("-n", "--n-molecules", min=1, help="How many molecules.")] = 1,
    out: Annotated[Path | None, typer.Option(help="File to write: .xyz, .sdf, .json, or .html for a gallery.")] = None,
    n_atoms: Annotated[int | None, typer.Option(min=1, help="Atoms of each [default: drawn from p(N)].")] = None,
    formula: Annotated[str | None, typer.Option(help="Of each, such as C7H10O2; needs weights that take one.")] = None,
    seed: SeedOption = None,
    first_index: Annotated[int, typer.Option(min=0, help="Index of the first: (seed, index) fixes a molecule.")] = 0,
    only: Annotated[Only, typer.Option(help="Sample on until n are valid, or stable.")] = "any",
    with_nll: Annotated[bool, typer.Option("--with-nll", help="Score each molecule too.")] = False,
    tolerance: ToleranceOption = "standard",
    weights: Weights = BUNDLED_WEIGHTS,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Generate molecules: enflow sample -n 100 --out molecules.sdf, or with --formula C7H10O2

    Of another model: enflow sample weights/lj13 -n 10 --out lj13.xyz

    Without --out they are printed as XYZ. The same seed gives the same molecules: alone, in company, and from the
    service. Valid: RDKit finds bonds in which every atom has its valence. Stable: every atom has its valence by the
    table of bond lengths that the literature uses.
    """
    if formula is not None and n_atoms is not None:
        raise ConfigError("found --formula and --n-atoms; expected one of them")
    file, tol = target(out), number(tolerance)
    seed = secrets.randbits(32) if seed is None else seed
    weights = place or weights
    if formula is not None and weights == BUNDLED_WEIGHTS:
        weights = FORMULA_WEIGHTS
    engine = OfflineEngine(weights, device)
    refuse_bonds(engine.card, file)
    sizes = (_size(engine.card, n_atoms, formula, only),) * n
    wanted = EngineSampleRequest(
        id="", seed=seed, n_atoms=sizes, formula=formula, first_index=first_index, rtol=tol, atol=tol
    )
    with progress() as report:
        harvest = _harvest(engine, wanted, only, report)
        if with_nll:
            _score(engine, harvest, wanted, report)
    molecules, bonds = (list(each) for each in zip(*(harvest.kept[i] for i in sorted(harvest.kept)), strict=True))
    if file:
        file.write(_written(engine.card, molecules, bonds, file.form))
    if as_json:
        facts = {"seed": seed, "model": engine.heading, "attempts": harvest.account}
        shown = {"out": str(out)} if out else json.loads(_written(engine.card, molecules, bonds, "json"))
        print_result("", {**facts, **shown}, as_json=True)
    elif out is None:
        typer.echo(write(molecules, bonds, "xyz"), nl=False)
    if not as_json or len(molecules) < n:
        why = "".join(f"; {count} x {reason}" for reason, count in harvest.reasons.most_common())
        typer.echo(f"{len(molecules)} of {harvest.tried} molecules kept, seed {seed}{why}", err=True)


def _written(card: ModelCard, molecules: Sequence[Molecule], bonds: Sequence[Bonds], form: Format) -> str:
    """A file; the JSON of particles has the fields that the service gives them."""
    if form != "json" or card.system is None:
        return write(molecules, bonds, form)
    entries = [{**each.properties, **cluster_fields(card.system, each)} for each in molecules]
    return json.dumps({"molecules": entries}, indent=1) + "\n"


def _size(card: ModelCard, n_atoms: int | None, formula: str | None, only: Only) -> int | None:
    """The atoms of each molecule; None = drawn."""
    if card.system:
        if only != "any" or formula is not None or n_atoms not in (None, card.system.n_particles):
            raise ConfigError(f"found --only, --formula or --n-atoms, but {card.name} is of particles; leave them out")
        return card.system.n_particles
    if formula is not None:
        if not card.takes_formulas:
            raise ConfigError(f"found --formula, but {card.name} draws the elements itself; see --weights")
        return sum(parse_formula(formula, card.vocabulary))
    if n_atoms is not None and n_atoms > card.vocabulary.max_atoms:
        raise ConfigError(f"found {n_atoms} atoms; the model knows at most {card.vocabulary.max_atoms}")
    return n_atoms


def _harvest(
    engine: OfflineEngine, wanted: EngineSampleRequest, only: Only, report: ProgressCallback
) -> SampleCollector:
    """Molecule j of n tries the indices j, j + n, j + 2n, ... until one is kept: those that the service gives."""
    card, n = engine.card, len(wanted.n_atoms)
    harvest = ParticleCollector(only, system=card.system) if card.system else SampleCollector(only)
    provenance = {"seed": wanted.seed, "model": card.name, "sha256": card.sha256, "tolerance": wanted.rtol}
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
        raise SolverError(f"none of {harvest.tried} molecules is to be kept: {dict(harvest.reasons)}")
    return harvest


def _score(
    engine: OfflineEngine, harvest: SampleCollector, wanted: EngineSampleRequest, report: ProgressCallback
) -> None:
    """Score what was kept, and nothing else: an exact likelihood costs some seventy times a sample."""
    options = EstimatorOptions(rtol=wanted.rtol, atol=wanted.atol)
    works = [
        EngineLikelihoodRequest(
            id=f"score {index}",
            molecules=(Structure(molecule.atomic_numbers, molecule.positions),),
            seed=wanted.seed,
            options=options,
            first_index=index,
        )
        for index, (molecule, _) in harvest.kept.items()
    ]
    report("scoring", 0, len(works))
    scored = (event for event in engine.answers(*works) if isinstance(event, Scored))
    for done, event in enumerate(scored, start=1):
        harvest.score(event)
        report("scoring", done, len(works))


def _again(wanted: EngineSampleRequest, j: int, attempt: int) -> EngineSampleRequest:
    index = wanted.first_index + j + attempt * len(wanted.n_atoms)
    return replace(wanted, id=str(index), n_atoms=wanted.n_atoms[j : j + 1], first_index=index)
