"""Settings come from the environment; a wrong one ends the start with one line that has its name and the reason."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from enflow.model.errors import ConfigError
from enflow.service.settings import OTHER_VARIABLES, Settings, names, read_settings

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("ENFLOW_"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("ENFLOW_PORT", "99999", "less than or equal to 65535"),
        ("ENFLOW_PORT", "http", "valid integer"),
        ("ENFLOW_THREADS", "0", "greater than or equal to 1"),
        ("ENFLOW_THREADS", "999999", "less than or equal to 1024"),
        ("ENFLOW_CHEMISTRY__PROCESSES", "999999", "less than or equal to 256"),
        ("ENFLOW_DEVICE", "tpu", "should match pattern '^(auto|cpu|cuda)$'"),
        ("ENFLOW_LOG_LEVEL", "loud", "should match pattern"),
        ("ENFLOW_DRAIN_S", "-1", "greater than 0"),
        ("ENFLOW_STALL_S", "inf", "finite number"),
        ("ENFLOW_LIMITS__MAX_DEADLINE_S", "inf", "finite number"),
        ("ENFLOW_ALLOW_OPEN", "perhaps", "valid boolean"),
        ("ENFLOW_LIMITS__MAX_MOLECULES", "0", "greater than 0"),
        ("ENFLOW_JOBS__KEEP_DAYS", "3000000", "less than or equal to 1000000"),
        ("ENFLOW_LIMITS__MAX_MOLECULS", "5", "the nearest is ENFLOW_LIMITS__MAX_MOLECULES"),
        ("ENFLOW_LIMITS_MAX_ATOMS", "5", "the nearest is ENFLOW_LIMITS__MAX_ATOMS"),
        ("ENFLOW_PROT", "9000", "the nearest is ENFLOW_PORT"),
        ("enflow_wieghts", "", "the nearest is ENFLOW_WEIGHTS"),
        ("ENFLOW_API_KEY_FILE", "/run/secrets/keys", "the nearest is ENFLOW_API_KEYS_FILE"),
        ("ENFLOW_LIMITS", '{"max_moleculs": 5}', "not permitted"),
        ("ENFLOW_CHEMISTRY__BONDS_S", "fast", "valid number"),
        ("ENFLOW_CORS_ORIGINS", "https://chem.example", "JSON"),
        ("ENFLOW_LIMITS", "{", "JSON"),
    ],
)
def test_an_error_has_the_name_and_the_reason(
    name: str, value: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"^{name}(__MAX_MOLECULS)?: ") as caught:
        read_settings({})
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("given", "nearest"),
    [({"wieghts": "x"}, "ENFLOW_WEIGHTS"), ({"prot": 1}, "ENFLOW_PORT"), ({"thread": 1}, "ENFLOW_THREADS")],
)
def test_a_misspelt_argument_is_refused(given: dict[str, object], nearest: str) -> None:
    """The file deploy/serve.yml passes settings as arguments."""
    with pytest.raises(ConfigError, match=rf"found no setting of this name, the nearest is {nearest}$"):
        read_settings(given)


def test_a_misspelt_member_of_a_group_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^ENFLOW_LIMITS__MAX_MOLECULS: "):
        read_settings({"limits": {"max_moleculs": 5}})


def test_every_variable_of_the_repository_is_a_setting_or_known_to_be_none() -> None:
    """Otherwise the service refuses to start where a program of the repository has set the variable."""
    files = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    texts = [
        path.read_text(encoding="utf-8", errors="ignore")
        for name in files.stdout.split("\0")
        if (path := REPOSITORY / name).is_file() and path != Path(__file__) and "weights" not in path.parts
    ]
    found = {name for text in texts for name in re.findall(r"\bENFLOW_[A-Z][A-Z_]*[A-Z]\b", text)}
    assert found - set(names()) == OTHER_VARIABLES


def test_a_wrong_value_ends_the_command_in_one_line() -> None:
    environment = {**os.environ, "ENFLOW_CORS_ORIGINS": "https://chem.example"}
    command = [sys.executable, "-m", "enflow.service", "serve"]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("enflow: ENFLOW_CORS_ORIGINS: ")
    assert done.stderr.count("\n") == 1


def test_a_public_address_without_keys_needs_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENFLOW_HOST", "0.0.0.0")
    with pytest.raises(ConfigError, match=r"found host 0\.0\.0\.0 without API keys"):
        read_settings({})
    monkeypatch.setenv("ENFLOW_ALLOW_OPEN", "1")
    assert read_settings({}).host == "0.0.0.0"


def test_arguments_go_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENFLOW_PORT", "9000")
    monkeypatch.setenv("ENFLOW_LIMITS__MAX_MOLECULES", "7")
    monkeypatch.setenv("ENFLOW_CORS_ORIGINS", '["https://chem.example"]')
    monkeypatch.setenv("ENFLOW_THREADS", "")  # a compose file passes an unset variable in this way
    found = read_settings({"port": 9001})
    assert (found.port, found.limits.max_molecules, found.threads) == (9001, 7, None)
    assert found.limits.max_atoms == Settings().limits.max_atoms
    assert found.cors_origins == ("https://chem.example",)
