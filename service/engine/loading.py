"""The engine of a service: made from a folder with weights, in the worker process."""

import torch

from enflow.model.checkpoint import load_any, read_card
from enflow.model.errors import WeightsError
from enflow.service.engine.compilation import BackgroundCompilation
from enflow.service.engine.core import Engine


def from_weights(
    weights: str, device: str = "auto", threads: int | None = None, sha256: str = "", compile_velocity: bool = False
) -> Engine:
    """Return an engine with the weights of a folder.

    Args:
        weights: the folder.
        device: "cpu", "cuda", or "auto" for the GPU if there is one.
        threads: threads of torch; None = torch chooses.
        sha256: the SHA-256 of the weights that answers name; empty = that of the folder.
        compile_velocity: compile the velocity in the background where that is not done yet.

    Raises:
        WeightsError: the weights are missing, damaged, or others than those that answers name.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    flow = load_any(weights, device=name)  # the tensors are those of the card
    if sha256 not in ("", found := read_card(weights).weights_sha256):
        raise WeightsError(
            f"found weights with SHA-256 {found}, expected {sha256}: the files were changed under the running service; "
            "restart it to use them"
        )
    engine = Engine(flow)
    if compile_velocity:
        engine.compilation = BackgroundCompilation(flow, weights)
    return engine
