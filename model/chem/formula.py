"""Chemical formulas: the number of atoms of each element."""

import re

from enflow.model.chem.elements import SYMBOLS, Vocabulary
from enflow.model.errors import StructureError, VocabularyError

PART = re.compile(r"([A-Z][a-z]?)([1-9][0-9]{0,3})?")


def parse_formula(formula: str, vocabulary: Vocabulary) -> tuple[int, ...]:
    """Return the number of atoms of each element in a formula such as C7H10O2, in the vocabulary's order.

    Raises:
        StructureError: the text is no formula.
        VocabularyError: an element is not in the vocabulary, or there are too many atoms.
    """
    parts = PART.findall(formula)
    if not parts or "".join(symbol + count for symbol, count in parts) != formula:
        raise StructureError(f"found formula {formula[:40]!r}, expected elements with counts, such as C7H10O2")
    numbers = {SYMBOLS[z - 1]: place for place, z in enumerate(vocabulary.atomic_numbers)}
    counts = [0] * len(vocabulary)
    for symbol, count in parts:
        if symbol not in numbers:
            raise VocabularyError(f"found element {symbol}, expected one of {', '.join(numbers)}")
        counts[numbers[symbol]] += int(count or 1)
    if sum(counts) > vocabulary.max_atoms:
        raise VocabularyError(f"found {sum(counts)} atoms in {formula[:40]}, expected at most {vocabulary.max_atoms}")
    return tuple(counts)
