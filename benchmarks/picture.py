"""The picture of the README: the first molecules of one seed from the bundled weights, not selected.

python -m benchmarks.picture
"""

from pathlib import Path

from enflow.model.checkpoint import load
from enflow.model.chem.viewer import drawing

REPOSITORY = Path(__file__).parents[1]
SEED, COLUMNS, ROWS, SIDE = 0, 6, 2, 160


def main() -> None:
    flow = load(REPOSITORY / "weights" / "qm9")
    molecules = flow.sample([None] * (COLUMNS * ROWS), seed=SEED)
    cells = [
        drawing(molecule.atomic_numbers, molecule.positions, SIDE, molecule.formula).replace(
            "<svg ", f'<svg x="{SIDE * (i % COLUMNS)}" y="{SIDE * (i // COLUMNS)}" width="{SIDE}" height="{SIDE}" ', 1
        )
        for i, molecule in enumerate(molecules)
    ]
    size = f'width="{SIDE * COLUMNS}" height="{SIDE * ROWS}"'
    page = f'<svg xmlns="http://www.w3.org/2000/svg" {size}><rect {size} fill="white"/>{"".join(cells)}</svg>\n'
    (REPOSITORY / "docs" / "molecules.svg").write_text(page)


if __name__ == "__main__":
    main()
