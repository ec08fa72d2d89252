"""Charts as plain SVG: lines, steps and error bars over two axes; they need nobody to draw them."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

WIDTH, HEIGHT = 420, 250
LEFT, RIGHT, TOP, BOTTOM = 48, 10, 10, 40
COLOURS = ("#1f6fb2", "#d1761a", "#3f9b4f", "#a03b8f")
STYLE = "<style>text{font:11px sans-serif}.grid{stroke:#e3e3e3;fill:none}</style>"

Point = tuple[float, float] | tuple[float, float, float]
"""x, y, and where there is one, half the length of an error bar."""


@dataclass(frozen=True)
class Series:
    """Points under one name, drawn as a line, as dots with their errors, or as the steps of a histogram."""

    name: str
    points: Sequence[Point]
    kind: Literal["line", "dots", "steps"] = "line"


@dataclass(frozen=True)
class Axis:
    """From a range of values to a range of the drawing, with ticks at round numbers."""

    low: float
    high: float
    begin: int
    end: int

    def at(self, value: float) -> float:
        """Where a value lies."""
        return self.begin + (value - self.low) / (self.high - self.low) * (self.end - self.begin)

    def ticks(self, about: int = 5) -> list[float]:
        """Multiples of 1, 2 or 5 times a power of ten within the range."""
        rough = (self.high - self.low) / about
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
        first = math.ceil(self.low / step - 1e-9)
        return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def chart(title: str, x_label: str, y_label: str, series: Sequence[Series]) -> str:
    """A figure of all series over common axes, with a legend where there are several; empty where there is no point."""
    points = [point for each in series for point in each.points]
    if not points:
        return ""
    spreads = [point[2] if len(point) == 3 else 0.0 for point in points]
    x = _axis([point[0] for point in points], LEFT, WIDTH - RIGHT)
    heights = [p[1] + side * s for p, s in zip(points, spreads, strict=True) for side in (-1, 1)]
    y = _axis([*heights, *([0.0] if any(s.kind == "steps" for s in series) else [])], HEIGHT - BOTTOM, TOP)
    drawn = "".join(_draw(each, x, y, colour) for each, colour in zip(series, COLOURS, strict=False))
    said = escape(f"{title}: {y_label} over {x_label}", quote=True)
    body = f"{_frame(x, y, x_label, y_label)}{drawn}{_legend(series) if len(series) > 1 else ''}"
    drawing = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{said}">{body}</svg>'
    return f"<figure><figcaption>{escape(title)}</figcaption>{drawing}</figure>"


def standalone(figure: str) -> str:
    """The drawing of a figure as a file of its own; empty where there is none."""
    inner = re.search(r"<svg (.*)</svg>", figure, re.DOTALL)
    if inner is None:
        return ""
    attributes, _, body = inner.group(1).partition(">")
    return f'<svg xmlns="http://www.w3.org/2000/svg" {attributes}>{STYLE}{body}</svg>\n'


def histogram(title: str, x_label: str, counts: dict[str, list[int]], width: float, first: float = 0.0) -> str:
    """Shares per bin of several sets of counts over bins of one width, cut to where there is anything."""
    used = [i for values in counts.values() for i, count in enumerate(values) if count]
    if not used:
        return ""
    bins = range(min(used), max(used) + 1)
    series = [
        Series(name, [(first + i * width, values[i] / max(1, sum(values))) for i in bins], "steps")
        for name, values in counts.items()
    ]
    return chart(title, x_label, "share", series)


def _axis(values: Sequence[float], begin: int, end: int) -> Axis:
    low, high = min(values), max(values)
    margin = 0.04 * (high - low) or 0.5
    return Axis(low - margin * (low != 0), high + margin, begin, end)


def _draw(series: Series, x: Axis, y: Axis, colour: str) -> str:
    places = [(x.at(point[0]), y.at(point[1])) for point in series.points]
    if series.kind == "dots":
        bars = [
            f"M{x.at(p[0]):.1f} {y.at(p[1] - p[2]):.1f}V{y.at(p[1] + p[2]):.1f}" for p in series.points if len(p) == 3
        ]
        dots = "".join(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{colour}"/>' for px, py in places)
        return f'<path d="{"".join(bars)}" stroke="{colour}" fill="none"/>{dots}'
    if series.kind == "line":
        path = "L".join(f"{px:.1f} {py:.1f}" for px, py in places)
    else:
        path = "".join(f"{px:.1f}V{py:.1f}H" for px, py in places)
        path = f"{places[0][0]:.1f} {y.at(0.0):.1f}H{path}{places[-1][0]:.1f}V{y.at(0.0):.1f}"
    return f'<path d="M{path}" stroke="{colour}" fill="none" stroke-width="1.6"/>'


def _frame(x: Axis, y: Axis, x_label: str, y_label: str) -> str:
    lines, words = [], []
    for tick in x.ticks():
        lines.append(f"M{x.at(tick):.1f} {y.begin}v4")
        words.append(f'<text x="{x.at(tick):.1f}" y="{y.begin + 16}" text-anchor="middle">{tick:.6g}</text>')
    for tick in y.ticks():
        lines.append(f"M{x.begin} {y.at(tick):.1f}h{x.end - x.begin}")
        words.append(f'<text x="{x.begin - 5}" y="{y.at(tick) + 4:.1f}" text-anchor="end">{tick:.6g}</text>')
    middle = (y.begin + y.end) / 2
    words.append(f'<text x="{(x.begin + x.end) / 2}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>')
    turned = f'transform="rotate(-90 10 {middle})" text-anchor="middle"'
    words.append(f'<text x="10" y="{middle}" {turned}>{escape(y_label)}</text>')
    return f'<path class="grid" d="{"".join(lines)}"/>{"".join(words)}'


def _legend(series: Sequence[Series]) -> str:
    place = f'x="{WIDTH - RIGHT - 4}" text-anchor="end"'
    # Rising curves end at the top right, falling ones and histograms at the bottom.
    rising = any(each.kind == "line" and each.points[-1][1] > each.points[0][1] for each in series)
    top = HEIGHT - BOTTOM - 15 * len(series) if rising else TOP + 14
    return "".join(
        f'<text {place} y="{top + 15 * i}" fill="{colour}">{escape(s.name)}</text>'
        for i, (s, colour) in enumerate(zip(series, COLOURS, strict=False))
    )
