"""The engine of a service: made from a folder with weights, in the worker process."""

import torch

from enflow.model.checkpoint import load_any
from enflow.service.engine.compilation import BackgroundCompilation
from enflow.service.engine.core import Engine


def from_weights(
    weights: str, device: str = "auto", threads: int | None = None, compile_velocity: bool = False
) -> Engine:
    """Return an engine with the weights of a folder.

    Args:
        weights: the folder.
        device: "cpu", "cuda", or "auto" for the GPU if there is one.
        threads: threads of torch; None = torch chooses.
        compile_velocity: compile the velocity in the background where that is not done yet.

    Raises:
        WeightsError: the weights are missing or damaged.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    flow = load_any(weights, device=name)
    engine = Engine(flow)
    if compile_velocity:
        engine.compilation = BackgroundCompilation(flow, weights)
    return engine
