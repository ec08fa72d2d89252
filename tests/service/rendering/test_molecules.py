"""Documents of frames: certainties by hand, for models with one feature per type and for others."""

import numpy as np
import pytest

from enflow.service.model_card import ModelCard
from enflow.service.protocol.events import Frame
from enflow.service.rendering.molecules import certainty, render_frame
from tests.service.serving import some_card

CARD = ModelCard(some_card("five-types"), {})


def frame(features: np.ndarray) -> Frame:
    return Frame(0.5, 12, np.array([6, 1]), np.array([[0.0, 0, 0], [0.123456, 0, 1.09]]), features)


def test_certainty_is_the_relative_lead_of_the_largest_type_feature() -> None:
    """(3 - 1) / (3 + 1), and 0 for two equal features."""
    features = np.array([[3.0, 1.0, 0.0], [2.0, 2.0, 1.0]])
    assert certainty(features, 3) == pytest.approx([0.5, 0.0])


def test_further_features_are_not_types() -> None:
    """The ordinal of "argmax_variational" is an atomic number, larger than every type feature."""
    features = np.array([[3.0, 1.0, 8.5]])
    assert certainty(features, 2) == pytest.approx([0.5])


@pytest.mark.parametrize("n_features", [0, 1])
def test_a_model_without_one_feature_per_type_has_no_certainty(n_features: int) -> None:
    document = render_frame(CARD, frame(np.ones((2, n_features))))
    assert document.certainty is None
    assert document.positions[1] == (0.1235, 0.0, 1.09)
    assert document.atomic_numbers == [6, 1]


def test_certainties_are_rounded() -> None:
    assert render_frame(CARD, frame(np.array([[1.0, 0.5, 0, 0, 0], [1, 0, 0, 0, 0]]))).certainty == [0.333, 1.0]
