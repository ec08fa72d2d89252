"""Percentiles of an NLL against the closed form of a normal distribution, however noisily it was scored."""

import json
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest

from enflow.model.errors import WeightsError
from enflow.service.model_card import FEWEST, complete, read_model_card, sharpened
from enflow.service.rendering.molecules import percentile
from tests.service.serving import CARD, weights_with_card

TRUTH = NormalDist(-90, 19)
NOISE = 20.0


def scores(n: int, noise: float) -> list[float]:
    random = np.random.default_rng(0)
    return (random.normal(TRUTH.mean, TRUTH.stdev, n) + random.normal(0, noise, n)).tolist()


def with_table(directory: Path, **table: object) -> Path:
    place = weights_with_card(directory)
    (place / "percentiles.json").write_text(json.dumps({"weights_sha256": CARD["weights_sha256"], **table}))
    return place


@pytest.mark.parametrize("nll", [-130.0, -110.0, -90.0, -60.0])
def test_a_percentile_is_that_of_the_distribution_without_its_noise(tmp_path: Path, nll: float) -> None:
    table = {"nll": {"18": scores(4000, NOISE)}, "std_error": {"18": NOISE}}
    found = percentile(read_model_card(with_table(tmp_path, **table)).held_out[18], nll)
    assert found == pytest.approx(100 * TRUTH.cdf(nll), abs=2.5)  # 4000 scores: 0.8 is one standard error


def test_without_the_noise_known_the_scores_stand_as_they_are(tmp_path: Path) -> None:
    card = read_model_card(with_table(tmp_path, nll={"18": scores(4000, 0.0)}))
    assert percentile(card.held_out[18], -120.0) == pytest.approx(100 * TRUTH.cdf(-120.0), abs=2.5)


def test_mean_and_variance_are_those_of_what_was_estimated() -> None:
    found = sharpened(scores(4000, NOISE), NOISE)
    assert np.mean(found) == pytest.approx(TRUTH.mean, abs=1.5)
    assert np.std(found) == pytest.approx(TRUTH.stdev, abs=1.0)


def test_where_little_is_known_there_is_no_percentile(tmp_path: Path) -> None:
    few, noisy = scores(FEWEST - 1, 0.0), scores(100, NOISE)
    card = read_model_card(with_table(tmp_path, nll={"9": few, "18": noisy}, std_error={"18": float(np.std(noisy))}))
    assert card.held_out == {}
    assert percentile((), -90.0) is None


def test_near_sizes_complete_a_size_with_few_scores() -> None:
    """The NLL falls by 10 nats per atom; sizes 13 and 14 are too few together, and 15 is three atoms from 18."""
    many = list(range(FEWEST))
    scores = {11: [7.0], 18: many, 20: [each - 20.0 for each in many], 21: [-25.0], 13: [0.0], 14: [0.0], 15: [0.0]}
    found = complete(scores)
    assert sorted(found) == [18, 20, 21]
    assert sorted(found[21]) == sorted([-25.0, *(each - 30.0 for each in many)])
    assert found[18] == many


def test_a_table_of_other_weights_is_none(tmp_path: Path) -> None:
    place = with_table(tmp_path, nll={"18": scores(100, 0.0)})
    table = json.loads((place / "percentiles.json").read_text())
    (place / "percentiles.json").write_text(json.dumps({**table, "weights_sha256": "0"}))
    assert read_model_card(place).held_out == {}


def test_a_damaged_table_is_an_error(tmp_path: Path) -> None:
    (weights_with_card(tmp_path) / "percentiles.json").write_text("{")
    with pytest.raises(WeightsError, match="cannot be read"):
        read_model_card(tmp_path)
