"""The clients of engines on a machine of any speed."""

import pytest


@pytest.fixture(autouse=True)
def small_requests_of_any_speed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no small request be refused because the machine is slow: their queue holds seconds of computing."""
    if not request.path.stem.endswith("admission"):
        monkeypatch.setattr("enflow.service.client.admission.SMALL_S", 1000.0)
