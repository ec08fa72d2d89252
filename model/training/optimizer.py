"""Optimizer: Muon for hidden matrices, AdamW for the rest, one schedule, an exponential moving average."""

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class OptimizerConfig:
    """Rates and schedule: warm-up, constant, and a cosine to zero over an annealing at the end.

    Attributes:
        muon_rate: learning rate of the hidden matrices (Muon; Jordan et al. 2024); 0 leaves them to AdamW, too.
        adam_rate: learning rate of everything else (AdamW, no weight decay).
        muon_decay: weight decay of Muon, times the rate per step: orthogonal updates add up to ever longer matrices. At
            rates of 0.02 and 0.002 and without decay runs of configs/qm9.json broke down within 6,000 steps; at 0.012,
            0.0012 and a decay of 0.02 they did not. Which of the changes did it was not tried one by one.
        warmup_steps: steps of linear warm-up.
        clip: bound of the gradient's norm.
        ema: decay per step of the moving average, bounded by (1 + step) / (10 + step) at the start.
    """

    muon_rate: float = 0.02
    adam_rate: float = 0.002
    muon_decay: float = 0.0
    warmup_steps: int = 200
    clip: float = 2.0
    ema: float = 0.999


OUTLIER = 8.0
"""Times the usual norm from which a gradient is not followed."""


class Muon(torch.optim.Optimizer):
    """Momentum whose matrices are made orthogonal by Newton and Schulz's iteration (Jordan et al. 2024).

    The update of `torch.optim.Muon` with adjust_lr_fn="original", which takes the matrices one by one;
    here those of one shape go together (for configs/qm9.json an optimizer step takes 20 ms instead of 33 on one core).
    """

    MOMENTUM = 0.95

    def __init__(self, parameters: list[nn.Parameter], lr: float, weight_decay: float = 0.0) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every matrix that has a gradient."""
        assert closure is None, "Muon evaluates no loss"
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes[parameter.shape].append(parameter)
            for shape, parameters in shapes.items():
                rate = group["lr"] * math.sqrt(max(1.0, shape[0] / shape[1]))
                torch._foreach_mul_(parameters, 1.0 - group["lr"] * group["weight_decay"])
                updates = orthogonal(torch.stack([self._momentum(parameter) for parameter in parameters]))
                torch._foreach_add_(parameters, list(updates.to(parameters[0].dtype)), alpha=-rate)

    def _momentum(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        gradient = parameter.grad
        assert gradient is not None
        momentum: Tensor = state["momentum"].lerp_(gradient, 1 - self.MOMENTUM)
        return gradient.lerp(momentum, self.MOMENTUM)  # Nesterov


def orthogonal(matrices: Tensor) -> Tensor:
    """Nearly orthogonal matrices of the same singular vectors: (M, A, B) -> (M, A, B), bfloat16.

    Five steps of a quintic Newton-Schulz iteration take all singular values to about 0.7 to 1.2.
    """
    a, b, c = 3.4445, -4.775, 2.0315
    x: Tensor = matrices.bfloat16()
    if tall := x.shape[-2] > x.shape[-1]:
        x = x.mT
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + torch.baddbmm(b * gram, gram, gram, alpha=c, beta=1.0) @ x
    return x.mT if tall else x


class Optimizer:
    """Muon and AdamW stepped together."""

    def __init__(self, network: nn.Module, config: OptimizerConfig) -> None:
        hidden, rest = split_parameters(network) if config.muon_rate else ([], list(network.parameters()))
        self.config = config
        self.parameters = [*hidden, *rest]
        self.usual = math.inf  # norm of a gradient, averaged over about a hundred steps
        adam = torch.optim.AdamW(rest, lr=config.adam_rate, weight_decay=0.0, fused=True)
        self.rates: list[tuple[torch.optim.Optimizer, float]] = [(adam, config.adam_rate)]
        if hidden:
            self.rates.append((Muon(hidden, config.muon_rate, config.muon_decay), config.muon_rate))

    def step(self, rate: float) -> float:
        """One update at a share `rate` of the learning rates; the gradient's norm before clipping.

        A gradient that is not finite, or far longer than usual, changes nothing: clipping leaves its direction, which
        Muon gives its full length whatever is left of it.
        """
        norm = float(nn.utils.clip_grad_norm_(self.parameters, self.config.clip))
        usual = norm < OUTLIER * self.usual
        for optimizer, base in self.rates:
            for group in optimizer.param_groups:
                group["lr"] = base * rate
            if usual:
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if math.isfinite(norm):
            self.usual = norm if math.isinf(self.usual) else 0.99 * self.usual + 0.01 * min(norm, OUTLIER * self.usual)
        return norm

    def state_dict(self) -> dict[str, Any]:
        return {"optimizers": [optimizer.state_dict() for optimizer, _ in self.rates], "usual": self.usual}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for (optimizer, _), one in zip(self.rates, state["optimizers"], strict=True):
            optimizer.load_state_dict(one)
        self.usual = state["usual"]


def split_parameters(network: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Hidden matrices (inside a layer, more than one row and column) and all other parameters."""
    hidden: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        is_hidden = ".layers." in name and parameter.ndim == 2 and min(parameter.shape) > 1
        (hidden if is_hidden else rest).append(parameter)
    return hidden, rest


def rate_at(step: int, warmup_steps: int, anneal: tuple[int, int] | None) -> float:
    """Share of the learning rate at a step: warm-up, then 1, then a cosine to zero over anneal = (first, steps)."""
    rate = min(1.0, (step + 1) / warmup_steps)
    if anneal is not None:
        first, steps = anneal
        rate *= 0.5 + 0.5 * math.cos(math.pi * min(1.0, (step - first) / steps))
    return rate


@torch.no_grad()
def update_average(average: Iterable[Tensor], values: Iterable[Tensor], step: int, decay: float) -> None:
    """Move an exponential average towards the values, faster in the first steps."""
    weight = 1.0 - min(decay, (1.0 + step) / (10.0 + step))
    torch._foreach_lerp_(list(average), list(values), weight)
