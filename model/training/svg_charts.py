"""Charts as SVG, drawn by Matplotlib: lines, points with error bars, and histograms."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

COLOURS = ("#1f6fb2", "#d1761a", "#3f9b4f", "#a03b8f")
SIZE = (5.2, 3.2)
"""Width and height of a chart, inches."""

SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text, which can be searched and needs no fonts in the file
    "svg.hashsalt": "enflow",  # the same data give the same file
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": "#e3e3e3",
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.color": "#e3e3e3",
    "legend.frameon": False,
}
METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}

Point = tuple[float, float] | tuple[float, float, float]
"""x, y and, optionally, half the length of the error bar."""


@dataclass(frozen=True)
class Series:
    """Points under one name.

    Attributes:
        name: entry in the legend, and the id of the series in the SVG.
        points: the points.
        kind: "line"; "dots" with error bars; or "steps", where every point is the left edge of a bin.
    """

    name: str
    points: Sequence[Point]
    kind: Literal["line", "dots", "steps"] = "line"


def svg(title: str, x_label: str, y_label: str, series: Sequence[Series], *, log_x: bool = False) -> str:
    """Draw all series over common axes.

    Args:
        title: title for screen readers.
        x_label: label of the x axis.
        y_label: label of the y axis.
        series: the series; a legend is drawn if there are several.
        log_x: logarithmic x axis.

    Returns:
        An SVG document; empty if there is no point.
    """
    if not any(each.points for each in series):
        return ""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
        for each, colour in zip(series, COLOURS, strict=False):
            _draw(axes, each, colour)
        axes.set(xlabel=x_label, ylabel=y_label, xscale="log" if log_x else "linear")
        if len(series) > 1:
            axes.legend()
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata=METADATA)
    label = escape(f"{title}: {y_label} over {x_label}", quote=True)
    document = file.getvalue()
    document = document[document.index("<svg ") :]  # without the XML declaration, which HTML does not allow
    return re.sub(r'width="[^"]*pt"', f'role="img" aria-label="{label}"', document, count=1)


def chart(title: str, x_label: str, y_label: str, series: Sequence[Series]) -> str:
    """Return a chart (see `svg`) with its title as an HTML figure; empty if there is no point."""
    drawing = svg(title, x_label, y_label, series)
    return f"<figure><figcaption>{escape(title)}</figcaption>{drawing}</figure>" if drawing else ""


def histogram(title: str, x_label: str, counts: Mapping[str, Sequence[int]], width: float, first: float = 0.0) -> str:
    """Draw sets of counts as shares per bin, without the empty bins at both ends.

    Args:
        title: title of the figure.
        x_label: label of the x axis.
        counts: counts per bin, by name.
        width: width of a bin.
        first: left edge of the first bin.

    Returns:
        An HTML figure; empty if all counts are zero.
    """
    return chart(title, x_label, "share", shares(counts, width, first))


def shares(counts: Mapping[str, Sequence[int]], width: float, first: float = 0.0) -> list[Series]:
    """Return sets of counts as shares per bin, without the empty bins at both ends (see `histogram`)."""
    used = [i for values in counts.values() for i, count in enumerate(values) if count]
    bins = range(min(used), max(used) + 1) if used else range(0)
    return [
        Series(name, [(first + i * width, values[i] / max(1, sum(values))) for i in bins], "steps")
        for name, values in counts.items()
    ]


def _draw(axes: Any, series: Series, colour: str) -> None:
    x, y = [point[0] for point in series.points], [point[1] for point in series.points]
    if series.kind == "dots":
        errors = [point[2] if len(point) == 3 else 0.0 for point in series.points]
        drawn = axes.errorbar(x, y, errors, fmt="o", markersize=4, color=colour, label=series.name, gid=series.name)
        for bar in drawn.lines[2]:
            bar.set_gid(f"{series.name} errors")
    elif series.kind == "steps":
        width = x[1] - x[0] if len(x) > 1 else 1.0
        axes.stairs(y, [*x, x[-1] + width], color=colour, label=series.name, gid=series.name, linewidth=1.4)
    else:
        axes.plot(x, y, color=colour, label=series.name, gid=series.name, linewidth=1.6)
