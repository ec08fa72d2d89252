"""A chart is well-formed SVG whose marks stand where the values say."""

import re
from xml.etree import ElementTree as ET

import pytest

from enflow.model.training.svg_charts import Series, chart, histogram, svg

SVG = "{http://www.w3.org/2000/svg}"


def points_of(document: str, name: str) -> list[tuple[float, float]]:
    """The corners of the path that draws a series."""
    root = ET.fromstring(document[document.index("<svg") : document.index("</svg>") + 6])
    group = next(each for each in root.iter(f"{SVG}g") if each.get("id") == name)
    numbers = re.findall(r"-?[\d.]+", next(group.iter(f"{SVG}path")).get("d"))
    return [(float(x), float(y)) for x, y in zip(numbers[::2], numbers[1::2], strict=True)]


@pytest.mark.parametrize("log_x", [False, True])
def test_points_stand_in_proportion_to_their_values(log_x):
    x = [1.0, 10.0, 1000.0] if log_x else [0.0, 1.0, 3.0]
    values = [(x[0], 0.0), (x[1], 10.0), (x[2], 20.0)]
    document = svg("A & B", "x", "y", [Series("line", values)], log_x=log_x)
    (x0, y0), (x1, y1), (x2, y2) = points_of(document, "line")
    assert (x1 - x0) / (x2 - x0) == pytest.approx(1 / 3, abs=0.01)
    assert (y1 - y0) / (y2 - y0) == pytest.approx(1 / 2, abs=0.01)
    assert y2 < y0, "larger values stand higher"
    assert 'aria-label="A &amp; B: y over x"' in document


def test_an_error_bar_is_as_long_as_its_value():
    document = svg("t", "x", "y", [Series("s", [(0.0, 0.0, 1.0), (1.0, 10.0, 2.0)], "dots")])
    root = ET.fromstring(document)
    group = next(each for each in root.iter(f"{SVG}g") if each.get("id") == "s errors")
    bars = [re.findall(r"-?[\d.]+", path.get("d")) for path in group.iter(f"{SVG}path")]
    first, second = (abs(float(bar[1]) - float(bar[3])) for bar in bars)
    assert second / first == pytest.approx(2, abs=0.01)


def test_histograms_of_different_numbers_are_shares_on_one_axis():
    text = histogram("t", "x", {"a": [0, 0, 2, 2], "b": [0, 0, 50, 50]}, 0.5)
    assert points_of(text, "a") == points_of(text, "b")
    assert "<figcaption>t</figcaption>" in text
    assert histogram("t", "x", {"a": [0, 0]}, 1.0) == ""
    assert chart("t", "x", "y", []) == ""


def test_the_same_data_give_the_same_file_and_text_stays_text():
    series = [Series("one", [(0.0, 1.0), (1.0, 2.0)]), Series("two", [(0.0, 3.0), (1.0, 1.0)])]
    first, second = (svg("t", "molecules", "nats", series) for _ in range(2))
    assert first == second
    texts = {"".join(each.itertext()).strip() for each in ET.fromstring(first).iter(f"{SVG}text")}
    assert {"molecules", "nats", "one", "two"} <= texts
