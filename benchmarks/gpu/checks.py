"""The checks of the path on a GPU, against references of a CPU in float64 where there are any."""

import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.context import Context
from benchmarks.gpu.report import Skipped, require
from enflow.model.chem.molecule import Molecule
from enflow.model.training.trainer import compiled
from enflow.service.engine.core import Engine
from enflow.service.engine.cuda_graphs import CudaGraphs
from enflow.service.protocol.events import Failed, Sampled
from enflow.service.protocol.requests import EngineSampleRequest

VELOCITY_BOUND = 3e-5
"""Bound of an error of the velocity relative to its largest entry; float32 on a CPU gives 4.4e-6, TF32 1e-3."""

MOVED_BOUND, MOVED_QUANTILE = 1e-3, 0.9
"""Angstrom, and the share of molecules that must stay within: the adaptive steps of a few differ by more."""

NLL_BOUND = 0.1
"""Nats between the medians; float32 on a CPU differs from float64 by 0.002."""

STEPS = 5
LOSS_BOUNDS = {"float32": 1e-3, "as configured": 0.05}

TIMED = 20
TOP = 15

Arguments = tuple[Tensor, Tensor, Tensor, Tensor]


def versions(context: Context) -> dict[str, Any]:
    """Return the versions of the software and the name of the device."""
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "tf32": torch.backends.cuda.matmul.allow_tf32,
    }
    if context.device == "cpu":
        return found | {"device": platform.processor() or "cpu"}
    properties = torch.cuda.get_device_properties(context.device)
    return found | {
        "device": properties.name,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "cuda": torch.version.cuda,
        "multiprocessors": properties.multi_processor_count,
    }


@torch.inference_mode()
def eager_velocity(context: Context) -> dict[str, Any]:
    """Compare the velocity of states of several sizes with that in float64."""
    known = context.known
    state = _velocity_arguments(context, known)
    found = context.flow.velocity(*state)
    errors = {
        name: _relative(value, known[f"velocity_{name}"]) for name, value in zip(("dx", "dh"), found, strict=True)
    }
    require(max(errors.values()) < VELOCITY_BOUND, f"relative errors {errors}, expected below {VELOCITY_BOUND}")
    return {"rows": len(state[0]), **{f"error_{name}": value for name, value in errors.items()}}


@torch.inference_mode()
def graph_replay(context: Context) -> dict[str, Any]:
    """Compare replays of a captured graph with the eager velocity, for new arguments; time both."""
    if context.device == "cpu":
        raise Skipped("no GPU, no graph")
    graphs, errors = CudaGraphs(context.flow.velocity), []
    for rows, t in ((16, 0.2), (context.rows, 0.5), (16, 0.8), (context.rows, 0.9)):
        state = _random_arguments(context, rows, t)
        eager = context.flow.velocity(*state)
        errors.append(max(_relative(a, b.cpu().numpy()) for a, b in zip(graphs(*state), eager, strict=True)))
    require(max(errors) < VELOCITY_BOUND, f"relative errors {errors}, expected below {VELOCITY_BOUND}")
    require(graphs.captured == 2, f"{graphs.captured} graphs were captured, expected 2: the log says why")
    times = {}
    for rows in (16, context.rows):
        state = _random_arguments(context, rows, 0.5)
        times[f"eager_ms_{rows}_rows"] = _milliseconds(context, lambda s=state: context.flow.velocity(*s))
        times[f"graph_ms_{rows}_rows"] = _milliseconds(context, lambda s=state: graphs(*s))
    return {"error": max(errors), **times}


def molecules(context: Context) -> dict[str, Any]:
    """Compare generated molecules with those of a CPU in float64: elements and positions."""
    known = context.known
    sizes = known["molecules_n_atoms"].tolist()
    same, moved, begin = 0, [], time.perf_counter()
    for one in context.flow.samples(sizes, seed=0, refinements=0):
        numbers, positions = (
            known[f"molecules_{name}"][one.index, : sizes[one.index]] for name in ("numbers", "positions")
        )
        if one.molecule is not None and (one.molecule.atomic_numbers == numbers).all():
            same += 1
            moved.append(float(np.linalg.norm(one.molecule.positions - positions, axis=-1).max()))
    seconds = time.perf_counter() - begin
    require(same >= 0.95 * len(sizes), f"{same} of {len(sizes)} molecules have the elements of the reference")
    quantile = float(np.quantile(moved, MOVED_QUANTILE))
    require(quantile < MOVED_BOUND, f"moved by {quantile:.2g} angstrom, expected below {MOVED_BOUND}")
    facts = {"median": float(np.median(moved)), "quantile_90": quantile, "largest": max(moved)}
    return {"molecules": len(sizes), "same_elements": same, "seconds": round(seconds, 2), **facts}


def likelihoods(context: Context) -> dict[str, Any]:
    """Compare likelihoods of test molecules, with the same noise, with those of a CPU in float64."""
    known = context.known
    sizes = known["likelihood_n_atoms"].tolist()
    scored = [
        Molecule(known["likelihood_numbers"][i, :n], known["likelihood_positions"][i, :n]) for i, n in enumerate(sizes)
    ]
    begin = time.perf_counter()
    found = context.flow.log_prob(scored, draws=1, probes=1)
    seconds = time.perf_counter() - begin
    errors = np.abs(np.array([one.nll for one in found]) - known["likelihood_nll"])
    median = float(np.median(errors))
    require(median < NLL_BOUND, f"NLLs differ by {errors.tolist()} nats, expected a median below {NLL_BOUND}")
    return {"molecules": len(sizes), "median_nats": median, "largest_nats": float(errors.max()), "seconds": seconds}


def training_steps(context: Context) -> dict[str, Any]:
    """Compare the losses of five steps with those of a CPU: in float32, and as the run is configured."""
    context.check_state()
    known, facts = context.known["training_losses"], dict[str, Any]()
    for name, bound in LOSS_BOUNDS.items():
        begin = time.perf_counter()
        found = np.array(losses(context, configured=name != "float32"))
        errors = np.abs(found / known - 1)
        require(
            bool(errors.max() < bound), f"{name}: losses {found.tolist()}, expected {known.tolist()} within {bound}"
        )
        facts[f"error {name}"] = float(errors.max())
        facts[f"seconds {name}"] = round(time.perf_counter() - begin, 1)
    return facts


def losses(context: Context, *, configured: bool) -> list[float]:
    """Return the losses of five steps from the state of the run, eager in float32 or as it is configured."""
    trainer = context.trainer()
    network = compiled(trainer.network, trainer.config) if configured else trainer.network
    batches = trainer.objective.batches(context.data, trainer.config.batch_size, trainer.config.seed, trainer.step)
    found = []
    for _ in range(STEPS):
        rows = next(batches)
        found.append(trainer.update(network, trainer.draw(context.data, rows, trainer.step), len(rows))["loss"])
    return [float(loss) for loss in found]


@torch.inference_mode()
def profile_of_an_evaluation(context: Context) -> dict[str, Any]:
    """Return the operations of one evaluation that take longest."""
    state = _random_arguments(context, context.rows, 0.5)
    context.flow.velocity(*state)
    context.synchronize()
    on_gpu = context.device != "cpu"
    with profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * on_gpu]) as found:
        context.flow.velocity(*state)
        context.synchronize()
    column = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    kinds = found.key_averages()
    kernels = [one for one in kinds if one.device_type == torch.autograd.DeviceType.CUDA]  # operators repeat their time
    operations = sorted(kernels or kinds, key=lambda one: getattr(one, column), reverse=True)
    total = sum(getattr(one, column) for one in operations)
    rows = [[one.key, one.count, round(getattr(one, column) / 1e3, 4)] for one in operations[:TOP]]
    calls = sum(one.count for one in operations if getattr(one, column) > 0)
    return {"rows": context.rows, "ms": round(total / 1e3, 3), "calls": calls, "operations, calls, ms": rows}


def many_molecules(context: Context) -> dict[str, Any]:
    """Generate many molecules by the engine of the service."""
    facts, found = generated(context)
    np.savez(_first_run(context), **found)
    return facts


def many_molecules_again(context: Context) -> dict[str, Any]:
    """Generate the same molecules once more, with graphs captured anew, and compare."""
    facts, found = generated(context)
    if not _first_run(context).exists():
        return facts | {"note": "nothing to compare with"}
    with np.load(_first_run(context)) as first:
        same = [
            bool((first[f"numbers_{i}"] == found[f"numbers_{i}"]).all())
            for i in range(context.samples)
            if f"numbers_{i}" in first and f"numbers_{i}" in found
        ]
    require(sum(same) >= 0.99 * len(same), f"{sum(same)} of {len(same)} molecules have the same elements twice")
    return facts | {"same_elements": sum(same)}


def refined_molecules(context: Context) -> dict[str, Any]:
    """Generate a tenth as many molecules with the refinements of the model: the host draws noise for each of them."""
    refinements = context.flow.config.refinements
    facts, _ = generated(context, max(1, context.samples // 10), refinements)
    return facts | {"refinements": refinements}


def generated(
    context: Context, samples: int | None = None, refinements: int = 0
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return speed and failures of a large request to a new engine, and the molecules."""
    samples = samples or context.samples
    begin = time.perf_counter()
    engine = Engine(context.flow)
    ready = time.perf_counter()
    engine.add(EngineSampleRequest(id="gpu", seed=0, n_atoms=(None,) * samples, refinements=refinements))
    found, failed, evaluations = dict[str, np.ndarray](), 0, 0
    while not engine.idle:
        for event in engine.step():
            if isinstance(event, Sampled):
                found[f"numbers_{event.index}"] = event.atomic_numbers
                evaluations += event.nfe
            failed += isinstance(event, Failed)
    seconds, graphs = time.perf_counter() - ready, engine.graphs
    engine.close()
    require(context.device == "cpu" or graphs > 0, "no graph was captured: the log says why")
    require(failed <= 0.01 * samples, f"{failed} of {samples} molecules failed")
    return {
        "molecules": samples,
        "failed": failed,
        "graphs": graphs,
        "start_s": round(ready - begin, 2),
        "seconds": round(seconds, 2),
        "per_s": round(samples / seconds, 1),
        "nfe_mean": evaluations / max(1, len(found)),
    }, found


def _first_run(context: Context) -> Path:
    return context.scratch / "molecules.npz"


def _velocity_arguments(context: Context, known: Mapping[str, np.ndarray]) -> Arguments:
    t, x, h = (torch.from_numpy(known[f"velocity_{name}"]).to(context.device, context.flow.dtype) for name in "txh")
    return t, x, h, torch.from_numpy(known["velocity_mask"]).to(context.device)


def _random_arguments(context: Context, rows: int, time_: float, n_atoms: int = 18) -> Arguments:
    source = torch.Generator().manual_seed(rows)
    n_features = context.flow.config.dynamics.n_features
    x, h = (torch.randn(rows, n_atoms, width, generator=source).to(context.device) for width in (3, n_features))
    mask = torch.ones(rows, n_atoms, dtype=torch.bool, device=context.device)
    return x.new_full((rows,), time_), x - x.mean(1, keepdim=True), h, mask


def _relative(found: Tensor, expected: np.ndarray) -> float:
    """Return the largest error relative to the largest entry; NaN is an infinite error."""
    error = float(np.abs(found.double().cpu().numpy() - expected).max() / np.abs(expected).max())
    return error if np.isfinite(error) else float("inf")


def _milliseconds(context: Context, run: Callable[[], object]) -> float:
    run()
    context.synchronize()
    begin = time.perf_counter()
    for _ in range(TIMED):
        run()
    context.synchronize()
    return round(1e3 * (time.perf_counter() - begin) / TIMED, 3)
