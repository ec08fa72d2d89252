"""The metrics as text: lines for a terminal and for the page."""

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
