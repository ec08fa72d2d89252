"""The optimizer: Muon for hidden matrices, AdamW for the rest, one schedule, and an exponential moving average."""

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from enflow.model.config import STRICT, config_errors
from enflow.model.training.precision import has_fast_bfloat16


@config_errors
@dataclass(frozen=True, config=STRICT)
class OptimizerConfig:
    """Learning rates and their schedule: a linear warm-up, a constant rate, and a cosine to zero while annealing.

    Attributes:
        muon_rate: learning rate of the hidden matrices (Muon; Jordan et al. 2024); 0 = AdamW trains them, too.
        adam_rate: learning rate of all other parameters (AdamW without weight decay).
        muon_decay: weight decay of Muon per step, in units of the learning rate. Without decay the orthogonal updates
            make the matrices grow. Runs of configs/qm9.json diverged within 6,000 steps at rates of 0.02 and 0.002
            without decay, and did not at 0.012, 0.0012 and a decay of 0.02; the changes were not tried one by one.
        warmup_steps: number of steps of the warm-up; 0 = none.
        clip: upper bound of the norm of the gradient.
        ema: decay per step of the moving average, bounded by (1 + step) / (10 + step) in the first steps.
    """

    muon_rate: NonNegativeFloat = 0.02
    adam_rate: NonNegativeFloat = 0.002
    muon_decay: NonNegativeFloat = 0.0
    warmup_steps: NonNegativeInt = 200
    clip: PositiveFloat = 2.0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.999


OUTLIER = 8.0
"""A gradient whose norm exceeds the usual norm by this factor is skipped."""


class Muon(torch.optim.Optimizer):
    """Momentum whose update matrices are made orthogonal by the Newton-Schulz iteration (Jordan et al. 2024).

    The update equals that of `torch.optim.Muon` with adjust_lr_fn="original", which processes matrices one by one. This
    class processes all matrices of one shape together: for configs/qm9.json a step takes 20 ms instead of 33 on one
    core.
    """

    MOMENTUM = 0.95

    def __init__(self, parameters: list[nn.Parameter], lr: float, weight_decay: float = 0.0) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})
        self.found_inf: Tensor | None = None
        """1.0 = nothing changes in this step, as in the fused optimizers of torch; None = 0.0."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient."""
        assert closure is None, "Muon does not evaluate a loss"
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes[parameter.shape].append(parameter)
            for shape, parameters in shapes.items():
                rate = group["lr"] * math.sqrt(max(1.0, shape[0] / shape[1]))
                self._update(parameters, rate, 1.0 - group["lr"] * group["weight_decay"])

    def _update(self, parameters: list[Tensor], rate: float, decay: float) -> None:
        """Update matrices of one shape; a step that is skipped multiplies by 1 and adds 0."""
        gradients = torch.stack([p.grad for p in parameters if p.grad is not None])
        momenta = [self._momentum(parameter) for parameter in parameters]
        previous = torch.stack(momenta)
        momentum = previous.lerp(gradients, 1 - self.MOMENTUM)
        updates = -rate * orthogonal(gradients.lerp(momentum, self.MOMENTUM))  # Nesterov
        factor: Tensor | float = decay
        if self.found_inf is not None:
            skipped = self.found_inf > 0
            momentum = torch.where(skipped, previous, momentum)
            updates = torch.where(skipped, 0.0, updates)
            factor = torch.where(skipped, 1.0, decay)
        torch._foreach_copy_(momenta, list(momentum))
        torch._foreach_mul_(parameters, factor)
        torch._foreach_add_(parameters, list(updates.to(parameters[0].dtype)))

    def _momentum(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum: Tensor = state["momentum"]
        return momentum


def orthogonal(matrices: Tensor) -> Tensor:
    """Return nearly orthogonal matrices with the same singular vectors, in bfloat16 where that is fast, else float32.

    Five steps of a quintic Newton-Schulz iteration bring all singular values to about 0.7 to 1.2.

    Args:
        matrices: (M, A, B), any dtype.

    Returns:
        (M, A, B).
    """
    a, b, c = 3.4445, -4.775, 2.0315
    x: Tensor = matrices.bfloat16() if has_fast_bfloat16(matrices.device) else matrices.float()
    if tall := x.shape[-2] > x.shape[-1]:
        x = x.mT
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + torch.baddbmm(b * gram, gram, gram, alpha=c, beta=1.0) @ x
    return x.mT if tall else x


class Optimizer:
    """Muon for the hidden matrices and AdamW for the other parameters, stepped together without waiting for a GPU."""

    def __init__(self, network: nn.Module, config: OptimizerConfig) -> None:
        hidden, rest = split_parameters(network) if config.muon_rate else ([], list(network.parameters()))
        self.config = config
        self.parameters = [*hidden, *rest]
        device = self.parameters[0].device
        self.usual = torch.tensor(math.inf, device=device)  # the norm of the gradient over about a hundred steps
        adam = torch.optim.AdamW(rest, lr=config.adam_rate, weight_decay=0.0, fused=True)
        self.rates: list[tuple[torch.optim.Optimizer, float]] = [(adam, config.adam_rate)]
        if hidden:
            self.rates.append((Muon(hidden, config.muon_rate, config.muon_decay), config.muon_rate))

    def step(self, rate: float) -> Tensor:
        """Update the parameters and return the norm of the gradient before clipping, a tensor without dimensions.

        A gradient that is not finite, or far longer than usual, is skipped. Clipping alone would not help: it keeps the
        direction, and Muon gives every direction the same length.

        Args:
            rate: share of the learning rates, 0 to 1.
        """
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.clip).detach()
        skipped = (~(norm < OUTLIER * self.usual)).float()
        for optimizer, base in self.rates:
            for group in optimizer.param_groups:
                group["lr"] = base * rate
            optimizer.found_inf = skipped  # type: ignore[attr-defined]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        mean = 0.99 * self.usual + 0.01 * norm.minimum(OUTLIER * self.usual)
        mean = torch.where(self.usual.isinf(), norm, mean)
        self.usual = torch.where(norm.isfinite(), mean, self.usual)
        return norm

    def state_dict(self) -> dict[str, Any]:
        """Return the state of both optimizers and the usual norm of the gradient."""
        return {"optimizers": [optimizer.state_dict() for optimizer, _ in self.rates], "usual": float(self.usual)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""
        for (optimizer, _), one in zip(self.rates, state["optimizers"], strict=True):
            optimizer.load_state_dict(one)
        self.usual = torch.full_like(self.usual, state["usual"])


def split_parameters(network: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the hidden matrices (inside a layer, more than one row and column), and all other parameters."""
    hidden: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        is_hidden = ".layers." in name and parameter.ndim == 2 and min(parameter.shape) > 1
        (hidden if is_hidden else rest).append(parameter)
    return hidden, rest


def rate_at(step: int, warmup_steps: int, anneal: tuple[int, int] | None) -> float:
    """Return the share of the learning rate at a step, 0 to 1.

    Args:
        step: number of the step, from 0.
        warmup_steps: number of steps of the linear warm-up; 0 = none.
        anneal: first step and number of steps of the cosine to zero; None = no annealing.
    """
    rate = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    if anneal is not None:
        first, steps = anneal
        rate *= 0.5 + 0.5 * math.cos(math.pi * min(1.0, (step - first) / steps))
    return rate


@torch.no_grad()
def update_average(average: Iterable[Tensor], values: Iterable[Tensor], step: int, decay: float) -> None:
    """Move an exponential moving average towards the values; the first steps move it faster."""
    weight = 1.0 - min(decay, (1.0 + step) / (10.0 + step))
    torch._foreach_lerp_(list(average), list(values), weight)
