"""The speed of training: Enflow's step against a plain eager loop of the same network.

    ENFLOW_DATA=DIR python -m benchmarks.bench_training [--rounds 8] [--profile]

Both train the EGNN of node width 128, edge width 32 and 8 layers on batches of 64 molecules of QM9 of 18 atoms, by flow
matching, coupling included. Both start from the same weights and must find the same loss. The plain loop is eager
float32. Its messages use either concatenated pairs, as EGNNs are usually written, or sums of three smaller products;
the faster of the two counts. The shipped configuration is measured, too. One thread, processor time. --profile prints
the profile of Enflow's step.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from benchmarks.measure import by_turns, ratio, write_results
from enflow.model.config import EGNNConfig, FlowConfig
from enflow.model.flow.dynamics import centre_velocity
from enflow.model.flow.networks.egnn import EGNN, time_features
from enflow.model.training.config import TrainConfig, read_config
from enflow.model.training.data.qm9 import MoleculeDataset, data_file, load_qm9
from enflow.model.training.flow_matching import couple
from enflow.model.training.optimizer import split_parameters, update_average
from enflow.model.training.trainer import Trainer, compiled

SHIPPED = Path(__file__).parents[1] / "model" / "training" / "configs" / "qm9.json"
N_ATOMS, BATCH, STEPS = 18, 64, 4
REQUIRED, GOAL = 1.5, 2.0


class PlainLayer(nn.Module):
    """A straightforward EGNN layer with the weights of one of Enflow's layers."""

    def __init__(self, ours: Any, concatenate: bool) -> None:
        super().__init__()
        self.concatenate, self.tanh_range, self.scale = concatenate, ours.tanh_range, ours.message_scale
        names = "norm receive send distance message gate coordinate coordinate_out node_in node_out"
        for name in names.split():
            setattr(self, name, getattr(ours, name))
        if concatenate:
            self.edge = nn.Linear(2 * ours.receive.in_features + ours.distance.in_features, ours.receive.out_features)
            parts = [ours.receive.weight, ours.send.weight, ours.distance.weight]
            self.edge.weight.data.copy_(torch.cat(parts, 1).data)
            self.edge.bias.data.copy_(ours.receive.bias.data)
            del self.receive, self.send, self.distance

    def forward(self, s: Tensor, x: Tensor, radial0: Tensor, pairs: Tensor, basis: nn.Module) -> tuple[Tensor, Tensor]:
        difference = x.unsqueeze(2) - x.unsqueeze(1)
        d2 = difference.square().sum(-1)
        d = torch.sqrt(d2 + 1e-8)
        normed = self.norm(s)
        radial = torch.cat([basis(d2, d), radial0], -1)
        if self.concatenate:
            shape = (*d.shape, normed.shape[-1])
            ends = [normed.unsqueeze(2).expand(shape), normed.unsqueeze(1).expand(shape)]
            m = self.edge(torch.cat([*ends, radial], -1))
        else:
            m = self.receive(normed).unsqueeze(2) + self.send(normed).unsqueeze(1) + self.distance(radial)
        m = silu(self.message(silu(m)))
        m = m * torch.sigmoid(self.gate(m)) * pairs.unsqueeze(-1)
        phi = torch.tanh(self.coordinate_out(silu(self.coordinate(m)))) * self.tanh_range
        x = x + (difference / (d + 1).unsqueeze(-1) * phi * pairs.unsqueeze(-1)).sum(2)
        s = s + self.node_out(silu(self.node_in(torch.cat([normed, m.sum(2) / self.scale], -1))))
        return s, x


class PlainNetwork(nn.Module):
    """The velocity of a stack of plain layers."""

    def __init__(self, ours: Any, concatenate: bool) -> None:
        super().__init__()
        network: EGNN = ours.network
        self.config = ours.config
        self.embed, self.basis, self.norm, self.readout = network.embed, network.basis, network.norm, network.readout
        self.layers = nn.ModuleList(PlainLayer(layer, concatenate) for layer in network.layers)

    def forward(self, t: Tensor, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        b, n, _ = x.shape
        context = torch.cat([time_features(t, self.config.n_frequencies), torch.full((b, 1), n / 20.0)], -1)
        s = self.embed(torch.cat([h, context.unsqueeze(1).expand(b, n, -1)], -1))
        pairs = (1 - torch.eye(n)).expand(b, n, n)
        d2 = (x.unsqueeze(2) - x.unsqueeze(1)).square().sum(-1)
        radial0, start = self.basis(d2, torch.sqrt(d2 + 1e-8)), x
        for layer in self.layers:
            s, x = layer(s, x, radial0, pairs, self.basis)
        centres = self.config.feature_scale * torch.softmax(self.readout(self.norm(s)), -1)
        dx = x - start
        return dx - dx.mean(1, keepdim=True), centre_velocity(t, h, centres, self.config.feature_sigma)


class PlainLoop:
    """A plain training loop: couple, regress, clip, Muon and AdamW, average; nothing is compiled."""

    def __init__(self, trainer: Trainer, data: MoleculeDataset, concatenate: bool) -> None:
        self.config, self.data, self.step = trainer.config, data, 0
        self.network = PlainNetwork(trainer.averaged_network(), concatenate)
        hidden, rest = split_parameters(nn.ModuleDict({"network": self.network}))
        rates, self.parameters = self.config.optimizer, [*hidden, *rest]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(hidden, lr=rates.muon_rate, momentum=0.95, weight_decay=0.0, adjust_lr_fn="original"),
            torch.optim.AdamW(rest, lr=rates.adam_rate, weight_decay=0.0),
        ]
        self.average = [p.detach().clone() for p in self.parameters]

    def update(self, rows: np.ndarray) -> float:
        rng = np.random.default_rng([self.config.seed, self.step, 1])
        d = self.config.flow.dequantizer
        corners = (d.scale * np.eye(len(self.config.flow.vocabulary))).astype(np.float32)
        pairs = couple(*self.data.stack(rows), corners, d.sigma, rng)
        t = torch.from_numpy(rng.random(len(rows), dtype=np.float32) ** (1.0 / (self.config.matching.time_power + 1.0)))
        s = t[:, None, None]
        h = torch.lerp(pairs.h0, pairs.h1, s)
        dx, dh = self.network(t, torch.lerp(pairs.x0, pairs.x1, s), h)
        drift = pairs.x1 - pairs.x0
        error = (dx - (drift - drift.mean(1, keepdim=True))).square().sum((-2, -1))
        error = error + (dh - centre_velocity(t, h, pairs.centres, d.sigma)).square().sum((-2, -1))
        loss = error.mean() / N_ATOMS
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, self.config.optimizer.clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            for average, parameter in zip(self.average, self.parameters, strict=True):
                average.mul_(self.config.optimizer.ema).add_(parameter, alpha=1 - self.config.optimizer.ema)
        self.step += 1
        return float(loss.detach())


class Enflow:
    """The training step of `enflow train`."""

    def __init__(self, config: TrainConfig, data: MoleculeDataset) -> None:
        self.trainer, self.data = Trainer(config), data
        self.network = compiled(self.trainer.network, config)

    def update(self, rows: np.ndarray) -> float:
        drawn = self.trainer.draw(self.data, rows, self.trainer.step)
        losses = self.trainer.update(self.network, drawn, len(rows))
        return float(losses["loss_x"] + losses["loss_h"])


def shares(enflow: Enflow, rows: np.ndarray, steps: int) -> dict[str, float]:
    """Return the milliseconds of processor time per step, by part."""
    trainer, spent = enflow.trainer, dict[str, float]()

    def timed(name: str, run: Callable[[], Any]) -> Any:
        begin = time.process_time()
        found = run()
        spent[name] = spent.get(name, 0.0) + 1e3 * (time.process_time() - begin) / steps
        return found

    adam, *muon = [optimizer for optimizer, _ in trainer.optimizer.rates]
    clip = trainer.config.optimizer.clip
    for step in range(steps):
        drawn = timed("coupling", lambda step=step: trainer.draw(enflow.data, rows, step))
        losses = timed("forward", lambda drawn=drawn: trainer.objective.losses(enflow.network, drawn))
        loss = torch.stack([each.mean() for each in losses.values()]).sum()
        timed("backward", lambda loss=loss: torch.autograd.backward(loss))
        timed("clipping", lambda: nn.utils.clip_grad_norm_(trainer.optimizer.parameters, clip))
        for optimizer in muon:
            timed("Muon", optimizer.step)
        timed("AdamW", adam.step)
        for optimizer in (adam, *muon):
            optimizer.zero_grad()
        parameters = list(trainer.network.parameters())
        timed("average", lambda p=parameters: update_average(trainer.average, p, 1000, trainer.config.optimizer.ema))
    return {name: round(value, 2) for name, value in spent.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--profile", action="store_true", help="print PyTorch's profile of the step and end")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    shipped = read_config(SHIPPED)
    config = replace(shipped, flow=FlowConfig(dynamics=EGNNConfig(), dequantizer=shipped.flow.dequantizer))
    data = load_qm9(data_file(), "train", config.flow.vocabulary)
    rows = np.flatnonzero(data.n_atoms == N_ATOMS)[:BATCH]
    if arguments.profile:
        profile(Enflow(shipped, data), rows)
        return
    enflow = Enflow(config, data)
    candidates: dict[str, Enflow | PlainLoop] = {
        "Enflow": enflow,
        "plain loop": PlainLoop(enflow.trainer, data, concatenate=False),
        "plain loop, pairs concatenated": PlainLoop(enflow.trainer, data, concatenate=True),
        "Enflow, the shipped configuration": Enflow(shipped, data),
    }
    report(candidates, rows, 3 if arguments.quick else arguments.rounds, shipped)


def report(candidates: dict[str, Enflow | PlainLoop], rows: np.ndarray, rounds: int, shipped: TrainConfig) -> None:
    """Measure in turns, check that all candidates find the same loss, and write the results."""
    first = {name: each.update(rows) for name, each in candidates.items()}
    same = [value for name, value in first.items() if "shipped" not in name]
    assert np.allclose(same, same[0], rtol=0.02), f"the losses differ: {first}"  # messages may be bfloat16
    runs = {name: lambda each=each: [each.update(rows) for _ in range(STEPS)] for name, each in candidates.items()}
    seconds = by_turns(runs, rounds)
    speeds = {name: round(BATCH * STEPS / float(np.median(values)), 1) for name, values in seconds.items()}
    fastest = min((name for name in speeds if "plain" in name), key=lambda name: np.median(seconds[name]))
    against = {name: ratio(values, seconds["Enflow"]) for name, values in seconds.items()}
    found = against[fastest]["median"]
    parts = {name: shares(each, rows, 8) for name, each in candidates.items() if isinstance(each, Enflow)}
    write_results(
        "training",
        f"Training on {BATCH} molecules of {N_ATOMS} atoms: one thread",
        ["", "molecules / s", "Enflow is faster", "quartiles", "ms of a step"],
        [
            [
                name,
                f"{speeds[name]:.0f}",
                f"{times['median']:.2f}",
                f"{times['low']:.2f} to {times['high']:.2f}",
                _ms(parts.get(name, {})),
            ]
            for name, times in against.items()
        ],
        {
            "batch": BATCH,
            "n_atoms": N_ATOMS,
            "molecules_per_s": speeds,
            "enflow_is_faster": against,
            "ms_of_a_step": parts,
            "shipped": {
                "kind": shipped.flow.dynamics.kind,
                "pair_dtype": shipped.pair_dtype,
                "compile": shipped.compile,
            },
            "checks": {f"at_least_{REQUIRED:g}": found >= REQUIRED, f"goal_{GOAL:g}": found >= GOAL},
        },
    )


def _ms(parts: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.1f}" for name, value in parts.items())


def profile(enflow: Enflow, rows: np.ndarray) -> None:
    """Print the profile of Enflow's step."""
    for _ in range(3):
        enflow.update(rows)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        for _ in range(5):
            enflow.update(rows)
    print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=70))


if __name__ == "__main__":
    main()
