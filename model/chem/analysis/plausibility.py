"""PoseBusters' checks of a molecule's chemistry and geometry (Buttenschoen, Morris and Deane, Chem. Sci. 15, 2024)."""

import logging
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import pairwise

from rdkit import Chem, rdBase

from enflow.model.chem.analysis.metrics import Share
from enflow.model.errors import ConfigError

CHUNK = 100
"""Molecules of one table of results."""


def check_installed() -> None:
    """Do nothing if PoseBusters is installed.

    Raises:
        ConfigError: it is not.
    """
    if find_spec("posebusters") is None:
        raise ConfigError("found no package posebusters; expected the extra: pip install 'enflow[posebusters]'")


def posebusters_checks(mols: Sequence[Chem.Mol | None]) -> dict[str, Share]:
    """Return the share of molecules that pass each of PoseBusters' checks, and all of them ("all").

    The checks are those of a molecule alone ("mol_fast"): sanitization, InChI, one piece, no radicals; bond lengths,
    angles and clashes within the bounds of RDKit's distance geometry; flat aromatic rings and double bonds, and
    saturated rings that are not flat. The energy ratio is left out, which takes six times as long as all others.

    Args:
        mols: molecules with bonds and a conformer; None = no bonds were found, so that the molecule passes no check.

    Raises:
        ConfigError: PoseBusters is not installed.
    """
    check_installed()
    from posebusters import PoseBusters

    logging.getLogger("posebusters").setLevel(logging.ERROR)
    busters, given = PoseBusters("mol_fast"), [mol for mol in mols if mol is not None]
    passed = {"all": 0}
    with rdBase.BlockLogs():
        for first, last in pairwise([*range(0, len(given), CHUNK), len(given)]):
            results = busters.bust(given[first:last]).fillna(False).astype(bool)
            counts = {**results.sum().to_dict(), "all": results.all(axis=1).sum()}
            passed = {name: passed.get(name, 0) + int(count) for name, count in counts.items()}
    return {name: Share(count, len(mols)) for name, count in passed.items()}
