"""The text of metrics: every metric once, with its error or interval."""

from enflow.model.training.evaluation.summary import lines, table

METRICS = {
    "samples": 10,
    "validity": 0.5,
    "intervals_95": {"validity": [0.2, 0.8]},
    "en_flows": {"validity": 1.0, "validity_interval_95": [0.7, 1.0]},
    "test_nll": -100.25,
    "test_nll_se": 1.5,
}


def test_every_metric_appears_once_with_its_spread():
    assert lines(METRICS) == [
        ("samples", "10", ""),
        ("validity", "0.5", "0.2 to 0.8"),
        ("en_flows validity", "1", ""),
        ("en_flows validity_interval_95", "0.7 to 1", ""),
        ("test_nll", "-100.25", "± 1.5"),
    ]
    assert table(METRICS).count("\n") == 4
