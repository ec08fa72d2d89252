"""The ablation of the training on QM9: every variant changes one choice and gets the same short budget.

    python -m benchmarks.ablation [PASSES] [VARIANT ...]

Default: 48,000 passes, all variants, on the data of `enflow data qm9`. The table holds the squared velocity error per
validation molecule in intervals of time (lower is better) and the atom stability of a few samples; it is written to
docs/training.md, too. A variant that results/ablation.json holds for this budget is not trained again.
"""

import itertools
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import enflow
from benchmarks.measure import DOCS, RESULTS, write_results, write_section
from enflow.model.chem.analysis.metrics import stability
from enflow.model.config import EGNNConfig, VectorEGNNConfig
from enflow.model.flow.distributions import FeatureGaussian
from enflow.model.flow.dynamics import VectorEGNNDynamics, centre_velocity
from enflow.model.flow.molecule_flow import MoleculeFlow
from enflow.model.training.config import TrainConfig, read_config
from enflow.model.training.data.qm9 import MoleculeDataset, batches, data_file, load_qm9
from enflow.model.training.export import flow_of
from enflow.model.training.flow_matching import couple, flow_matching_loss
from enflow.model.training.objectives import FlowMatching
from enflow.model.training.trainer import Trainer, compiled

CONFIG = Path(enflow.__file__).parent / "model" / "training" / "configs" / "qm9.json"
TIMES = (0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
HELD_OUT = 16
"""Number of validation batches of 64 molecules."""

SAMPLES = 200

OTHER_TARGET = "no transport"
"""The variant that learns the velocity of another coupling; the errors here do not measure it, only its samples do."""

LATE = 2
"""The first interval that counts in the order of the variants; at earlier times most of the error is irreducible."""


CHARGE_CHANNEL = "charge channel"
PER_CHARGE = 0.1
"""Feature of the charge channel per unit of nuclear charge, as in EDM (Hoogeboom et al. 2022)."""


class ChargedDynamics(VectorEGNNDynamics):
    """A velocity that classifies atoms; the corners of the types have one channel more than there are types."""

    def __init__(self, config: VectorEGNNConfig, corners: NDArray[np.float32]) -> None:
        super().__init__(replace(config, n_features=corners.shape[1]))
        self.network.readout = nn.Linear(config.node_dim, len(corners))
        self.register_buffer("corners", torch.from_numpy(corners), persistent=False)

    def _features_velocity(self, t: Tensor, h: Tensor, outputs: Tensor) -> Tensor:
        return centre_velocity(t, h, torch.softmax(outputs, -1) @ self.corners, self.config.feature_sigma)


class Charged(FlowMatching):
    """Flow matching with the nuclear charge in a channel beside the types."""

    @property
    def corners(self) -> NDArray[np.float32]:
        """The noiseless features of each type, (K, K + 1)."""
        charges = PER_CHARGE * np.array(self.config.vocabulary, dtype=np.float32)
        return np.concatenate([super().corners, charges[:, None]], 1)

    def build(self) -> nn.Module:
        """Return a new velocity."""
        return ChargedDynamics(self.config.dynamics, self.corners)

    def flow(self, network: nn.Module) -> MoleculeFlow:
        """Return the flow, which reads the types from their own channels."""
        flow = MoleculeFlow(self.config)
        flow.dynamics, flow.base_features = network, FeatureGaussian(self.corners.shape[1])
        return flow


def objective_of(name: str, config: TrainConfig) -> FlowMatching:
    """Return the objective of a variant."""
    kind = Charged if name == CHARGE_CHANNEL else FlowMatching
    return kind(config.flow, config.matching, "cpu")


def base() -> TrainConfig:
    """Return the configuration of qm9.json without `odd_types` and `move_scale`, which are variants here."""
    config = read_config(CONFIG)
    dynamics = replace(config.flow.dynamics, odd_types=(), move_scale=1.0)
    return replace(config, flow=replace(config.flow, dynamics=dynamics))


def variants(base: TrainConfig) -> dict[str, TrainConfig]:
    """Return all variants by name; each differs from the base in one choice."""

    def network(**changes: Any) -> TrainConfig:
        return replace(base, flow=replace(base.flow, dynamics=replace(base.flow.dynamics, **changes)))

    def types(scale: float, sigma: float) -> TrainConfig:
        noise: dict[str, Any] = {"feature_scale": scale, "feature_sigma": sigma}
        dequantizer = replace(base.flow.dequantizer, scale=scale, sigma=sigma)
        flow = replace(base.flow, dynamics=replace(base.flow.dynamics, **noise), dequantizer=dequantizer)
        return replace(base, flow=flow)

    def optimizer(**changes: Any) -> TrainConfig:
        return replace(base, optimizer=replace(base.optimizer, **changes))

    def matching(**changes: Any) -> TrainConfig:
        return replace(base, matching=replace(base.matching, **changes))

    egnn = EGNNConfig(node_dim=192, edge_dim=48, n_layers=8, n_radial=31)
    return {
        "base": base,
        "another seed": replace(base, seed=1),
        "EGNN, no vectors": replace(base, flow=replace(base.flow, dynamics=egnn)),
        "32 vectors": network(n_vectors=32),
        "63 radial bases": network(n_radial=63),
        "nodes 256": network(node_dim=256),
        "edges 64": network(edge_dim=64),
        "6 layers": network(n_layers=6),
        "10 layers": network(n_layers=10),
        "AdamW alone": optimizer(muon_rate=0.0),
        "Muon 0.006": optimizer(muon_rate=0.006),
        "Muon 0.024": optimizer(muon_rate=0.024),
        "batch 32": replace(base, batch_size=32),
        "batch 128": replace(base, batch_size=128),
        "no transport": matching(transport=0),
        "uniform times": matching(time_power=0.0),
        "times t^2": matching(time_power=2.0),
        "distance loss 0.1": matching(distance_weight=0.1),
        "distance loss 1": matching(distance_weight=1.0),
        "type scale 0.5": types(0.5, 0.05),
        CHARGE_CHANNEL: base,
        "moves times 0.03": network(move_scale=0.03),
        "even electrons": network(odd_types=(0, 2, 4)),
        "type noise 0.1": types(0.25, 0.1),
    }


def run(name: str, config: TrainConfig, passes: int, data: MoleculeDataset) -> tuple[Trainer, float]:
    """Train a variant at constant rate, then along a cosine over the last 70 %; return also molecules per second."""
    shortened = replace(config, optimizer=replace(config.optimizer, warmup_steps=100, ema=0.998))
    trainer = Trainer(shortened, objective=objective_of(name, config))
    steps = passes // config.batch_size
    trainer.anneal = (3 * steps // 10, 7 * steps // 10)
    trainer.initialize(data)
    network, since, seen = compiled(trainer.network, config), 0.0, 0
    for rows in itertools.islice(batches(data.n_atoms, config.batch_size, config.seed, 0), steps):
        if trainer.step == steps // 10:  # the layers are compiled now
            since, seen = time.process_time(), trainer.passes
        trainer.update(network, trainer.draw(data, rows, trainer.step), len(rows))
    return trainer, (trainer.passes - seen) / (time.process_time() - since)


@torch.no_grad()
def errors(network: Any, objective: FlowMatching, data: MoleculeDataset) -> list[float]:
    """Return the squared error of the positions' velocity per molecule in each interval of time.

    All variants get the same noise, coupled by one round of transport.
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


def sampled(flow: MoleculeFlow) -> dict[str, float]:
    """Return the share of stable atoms in the samples, and the mean number of evaluations."""
    found = list(flow.samples([None] * SAMPLES, seed=0))
    stable = stability([one.molecule for one in found if one.molecule])
    n_atoms = sum(flow.draw_n_atoms(0, one.index) for one in found)
    nfe = sum(one.nfe for one in found) / len(found)
    return {"atom_stability": round(int(stable.stable_atoms.sum()) / n_atoms, 4), "nfe": round(nfe, 1)}


def known(passes: int) -> dict[str, dict[str, Any]]:
    """Return the content of results/ablation.json for this budget, best variant first."""
    path = RESULTS / "ablation.json"
    facts = json.loads(path.read_text()) if path.exists() else {}
    return facts["variants"] if facts.get("passes") == passes else {}


def late(variant: dict[str, Any]) -> float:
    """Return the sum of the errors of the late intervals."""
    return float(sum(variant["errors"][LATE:]))


def section(passes: int, found: dict[str, dict[str, Any]]) -> str:
    """Return the table in Markdown, best variant first."""
    spans = [f"{low:g} to {high:g}" for low, high in itertools.pairwise(TIMES)][1:]
    header = ["", *spans, "late, change", "stable %", "nfe", "per s"]
    late_times = f"`late` is from t = {TIMES[LATE]:g}."
    lines = [f"After {passes:,} molecules; squared velocity error of the positions per molecule, by time. {late_times}"]
    lines += ["`stable %` counts atoms; `nfe` is the number of evaluations; `per s` is molecules per second.", ""]
    lines += ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for name, one in found.items():
        change = f"{100 * (late(one) / late(found['base']) - 1):+.1f} %"
        errors = [f"{error:.2f}" for error in one["errors"][1:]]
        stable = f"{100 * one['atom_stability']:.1f}" if "atom_stability" in one else ""
        difference = "another target" if name == OTHER_TARGET else "" if name == "base" else change
        cells = [name, *errors, difference, stable, str(one.get("nfe", "")), str(one["molecules_per_s"])]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def report(passes: int, found: dict[str, dict[str, Any]]) -> None:
    """Write the table so far to results/ and docs/training.md."""
    columns = ["variant", *(f"t {low} to {high}" for low, high in itertools.pairwise(TIMES)), "parameters", "per s"]
    found = dict(sorted(found.items(), key=lambda item: late(item[1])))
    rows = [
        [name, *map(str, one["errors"]), str(one["parameters"]), str(one["molecules_per_s"])]
        for name, one in found.items()
    ]
    title = f"Squared velocity error per molecule after {passes} passes, best at late times first"
    write_results("ablation", title, columns, rows, {"passes": passes, "times": TIMES, "variants": found})
    write_section(DOCS / "training.md", "ablation", section(passes, found))


def main(passes: int, names: list[str]) -> None:
    torch.set_num_threads(1)
    wanted, found = variants(base()), known(passes)
    train, valid = (load_qm9(data_file(), split) for split in ("train", "valid"))
    for name in names or wanted:
        if name in found:
            continue
        trainer, speed = run(name, wanted[name], passes, train)
        network = trainer.averaged_network()
        found[name] = {
            "errors": errors(network, objective_of(name, wanted[name]), valid),
            "parameters": sum(p.numel() for p in network.parameters()),
            "molecules_per_s": round(speed),
            **sampled(flow_of(trainer, train)),
        }
        report(passes, found)
    report(passes, found)


if __name__ == "__main__":
    budget = int(sys.argv[1]) if len(sys.argv) > 1 else 48_000
    main(budget, sys.argv[2:])
