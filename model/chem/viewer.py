"""Views of one molecule in a web page or a notebook: a drawing in SVG, and py3Dmol's interactive view."""

import base64
from functools import cache
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from jaxtyping import Float64, Int64

from enflow.model.chem.elements import STABILITY_TABLE, SYMBOLS

LIBRARY = Path(__file__).parents[2] / "service" / "web" / "dist" / "3Dmol-min.js"
"""3Dmol.js, which `make page` fetches through npm; with it every page and notebook works offline."""

COLOURS = {1: "#f4f4f4", 6: "#555555", 7: "#3050f8", 8: "#e8190d", 9: "#3fae2a"}
OTHER_COLOUR = "#c060c0"
"""The colours of the elements in drawings, by atomic number, and that of every other element."""

BALL, HYDROGEN, STICK = 0.34, 0.22, 0.14
"""The radii of a ball and of a hydrogen and the width of a stick in drawings, angstrom."""

_STYLE = {"stick": {"radius": 0.14}, "sphere": {"scale": 0.25}}


@cache
def library() -> str | None:
    """Return the source of 3Dmol.js, None where the page was not built."""
    if not LIBRARY.is_file():
        return None
    return LIBRARY.read_text(encoding="utf-8").replace("</script", "<\\/script")  # the source may become part of a page


def library_address() -> str | None:
    """Return the source of 3Dmol.js as a data address, which a script can load without a network."""
    source = library()
    return source and f"data:text/javascript;base64,{base64.b64encode(source.encode()).decode()}"


def view(block: str, form: str, name: str, address: str | None) -> str:
    """Return py3Dmol's view of a structure as HTML that fills its parent element.

    Args:
        block: the structure; it becomes part of a script and must hold no text from outside.
        form: "xyz" or "sdf".
        name: a word for the ids of the elements, unique in the page.
        address: address of 3Dmol.js; None = py3Dmol's default, on the network.
    """
    import py3Dmol  # imports IPython where that is installed, which takes half a second

    where = {} if address is None else {"js": address}
    made = py3Dmol.view(width="100%", height="100%", data=block, format=form, style=_STYLE, **where)
    html = str(made.startjs + made.endjs).replace("UNIQUEID", name)
    warning, paragraph = html.index("<p id="), html.index("</p>") + len("</p>")
    return html[:warning] + html[paragraph:]  # where the script cannot load, the drawing below stays visible


def flattest_view(positions: Float64[np.ndarray, "N 3"]) -> Float64[np.ndarray, "N 3"]:
    """Return centred positions as they are seen along their shortest axis, which becomes z."""
    centred = positions - positions.mean(axis=0)
    return np.asarray(centred @ np.linalg.svd(centred, full_matrices=True)[2].T)


def drawing(
    atomic_numbers: Int64[np.ndarray, " N"], positions: Float64[np.ndarray, "N 3"], size: int = 240, label: str = ""
) -> str:
    """Return a molecule as SVG, seen along its shortest axis, with bonds by the distance table."""
    seen = flattest_view(positions)
    reach = max(1.0, float(np.abs(seen[:, :2]).max()) + 0.5)
    x, y = ((1 + seen[:, axis] / reach) * size / 2 for axis in (0, 1))
    unit = size / (2 * reach)
    marks = []
    for i, j in np.argwhere(np.triu(STABILITY_TABLE.orders(atomic_numbers, positions))):
        ends = f'x1="{x[i]:.1f}" y1="{y[i]:.1f}" x2="{x[j]:.1f}" y2="{y[j]:.1f}"'
        marks.append(
            (min(seen[i, 2], seen[j, 2]) - 0.01, f'<line {ends} stroke="#999" stroke-width="{STICK * unit:.1f}"/>')
        )
    for i, z in enumerate(atomic_numbers.tolist()):
        radius = (HYDROGEN if z == 1 else BALL) * unit
        fill = COLOURS.get(z, OTHER_COLOUR)
        circle = f'<circle cx="{x[i]:.1f}" cy="{y[i]:.1f}" r="{radius:.1f}" fill="{fill}" stroke="#333"'
        marks.append((seen[i, 2], f"{circle}><title>{SYMBOLS[z - 1]}{i + 1}</title></circle>"))
    body = "".join(mark for _, mark in sorted(marks))
    text = escape(label, {'"': "&quot;"})
    return f'<svg viewBox="0 0 {size} {size}" role="img" aria-label="{text}" xmlns="http://www.w3.org/2000/svg">{body}</svg>'
