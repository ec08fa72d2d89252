"""The metrics as text: lines for a terminal, and a row for the README."""

from collections.abc import Mapping
from typing import Any


def table(metrics: Mapping[str, Any]) -> str:
    """Return the metrics as lines of text: name, value and, if known, standard error or 95 % interval."""
    return "\n".join(f"{name:<36}{value:>12}  {spread}".rstrip() for name, value, spread in lines(metrics))


def lines(metrics: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return name, value and spread of every metric; a metric of a group gets the name of the group as prefix."""
    spreads = {name: f"{low:.4g} to {high:.4g}" for name, (low, high) in metrics.get("intervals_95", {}).items()}
    found = []
    for name, value in metrics.items():
        if name == "intervals_95" or name.removesuffix("_se") in metrics.keys() - {name}:
            continue
        if f"{name}_se" in metrics:
            spreads[name] = f"± {metrics[name + '_se']:.2g}"
        for part, number in value.items() if isinstance(value, dict) else [("", value)]:
            found.append((f"{name} {part}".strip(), _format(number), spreads.get(name, "")))
    return found


def _format(value: Any) -> str:
    if isinstance(value, list):
        return " to ".join(_format(each) for each in value)
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def readme_row(metrics: Mapping[str, Any]) -> str:
    """Return the row of the README: shares in %, NLL in nats, evaluations; a dash for a missing metric."""
    shares = ("atom_stability", "molecule_stability", "validity", "single_fragment", "uniqueness", "novelty")
    cells = [f"{100 * metrics[name]:.1f}" if metrics.get(name) is not None else "-" for name in shares]
    for name in ("test_nll", "test_nll_without_f"):
        error = metrics.get(f"{name}_se")
        cells.append(f"{metrics[name]:.1f} ± {error:.1f}" if error is not None else "-")
    cells.append(f"{metrics['nfe_mean']:.0f}" if "nfe_mean" in metrics else "-")
    return f"| **Enflow**, `weights/qm9` | {' | '.join(cells)} |"
