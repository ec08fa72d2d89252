"""A chart is well-formed SVG whose marks stand where the values say."""

import re
from xml.etree import ElementTree as ET

import pytest

from enflow.model.training.svg_charts import HEIGHT, Axis, Series, chart, histogram


def numbers(text: str) -> list[float]:
    return [float(value) for value in re.findall(r"-?[\d.]+", text)]


def test_ticks_are_round_and_within_the_range():
    assert Axis(0.0, 1.0, 0, 100).ticks() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert Axis(-37.0, 212.0, 0, 100).ticks() == [0, 50, 100, 150, 200]
    assert Axis(96.1, 97.9, 0, 100).ticks() == pytest.approx([96.5, 97, 97.5])


def test_points_stand_in_proportion_to_their_values():
    figure = ET.fromstring(chart("A & B", "x", "y", [Series("s", [(0.0, 0.0), (1.0, 10.0), (4.0, 20.0)])]))
    (path,) = [p for p in figure.iter("path") if p.get("stroke-width")]
    x0, y0, x1, y1, x2, y2 = numbers(path.get("d"))
    assert (x1 - x0) / (x2 - x0) == pytest.approx(1 / 4, abs=0.01)
    assert (y1 - y0) / (y2 - y0) == pytest.approx(1 / 2, abs=0.01)
    assert y2 < y0  # up
    assert figure.find("svg").get("aria-label") == "A & B: y over x"


def test_an_error_bar_is_as_long_as_it_says():
    figure = ET.fromstring(chart("t", "x", "y", [Series("s", [(0.0, 0.0, 1.0), (1.0, 10.0, 2.0)], "dots")]))
    bars = next(p for p in figure.iter("path") if p.get("fill") == "none" and not p.get("class")).get("d")
    (_, low0, high0), (_, low1, high1) = (numbers(bar) for bar in bars.split("M")[1:])
    assert (low1 - high1) / (low0 - high0) == pytest.approx(2, abs=0.05)
    assert len(list(figure.iter("circle"))) == 2


def test_histograms_of_different_numbers_are_shares_on_one_axis():
    text = histogram("t", "x", {"a": [0, 0, 2, 2], "b": [0, 0, 50, 50]}, 0.5)
    first, second = (p.get("d") for p in ET.fromstring(text).iter("path") if p.get("stroke-width"))
    assert first == second
    assert histogram("t", "x", {"a": [0, 0]}, 1.0) == ""
    assert chart("t", "x", "y", []) == ""


def test_a_legend_keeps_out_of_the_way_of_its_lines():
    def legend(*heights: float) -> list[float]:
        series = [Series(name, [(float(x), y) for x, y in enumerate(heights)]) for name in ("one", "two")]
        texts = ET.fromstring(chart("t", "x", "y", series)).iter("text")
        return [float(text.get("y")) for text in texts if text.text in ("one", "two")]

    middle = HEIGHT / 2
    assert max(legend(5.0, 1.0)) < middle < min(legend(1.0, 5.0))
