"""docs/settings.md lists the settings that the code has."""

import re

import pytest

from enflow.service.settings import Settings, names
from tests.deploy.settings_page import PAGE, page


@pytest.fixture(scope="module")
def defaults() -> dict[str, str]:
    """The defaults of the table by the name of the variable."""
    return dict(re.findall(r"^\| `(ENFLOW_\w+)` \| (.*?) ?\| .+\|$", PAGE.read_text(), re.MULTILINE))


def test_the_page_is_the_one_that_the_code_generates() -> None:
    assert PAGE.read_text() == page(), "run `make docs`"


def test_the_table_lists_every_variable_that_is_read(defaults: dict[str, str]) -> None:
    groups = {"ENFLOW_LIMITS", "ENFLOW_CHEMISTRY", "ENFLOW_JOBS"}
    assert set(names()) - groups == defaults.keys()


def test_the_service_starts_with_the_defaults_of_the_table(
    defaults: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ENFLOW_JOBS_URL")
    for name, default in defaults.items():
        if value := re.fullmatch(r"`(.+)`", default):
            monkeypatch.setenv(name, value[1])
    assert Settings().model_dump() == Settings.model_construct().model_dump()
