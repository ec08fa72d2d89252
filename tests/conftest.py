"""Fixtures every test may use."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests import type_checks

type_checks.install()
REPOSITORY = Path(__file__).resolve().parent.parent

# Tests use no code that the machine's user has compiled before, and compile none in the background.
os.environ["ENFLOW_CACHE"] = str(REPOSITORY / "build" / "no-compiled-code")
os.environ["ENFLOW_COMPILE"] = "0"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files whose tests take longest, so that no process is left alone with one of them at the end."""
    first = [REPOSITORY / "tests", REPOSITORY / "tests" / "page"]
    items.sort(key=lambda item: first.index(item.path.parent) if item.path.parent in first else len(first))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The directory of reference data and checkpoints, which is too large for the repository.

    Set ENFLOW_SHARED to its place; the default is a directory `shared` beside the repository.
    """
    place = Path(os.environ.get("ENFLOW_SHARED", REPOSITORY.parent / "shared"))
    if not place.is_dir():
        pytest.skip(f"reference data not found at {place}: set ENFLOW_SHARED to the directory that holds it")
    return place


@pytest.fixture(scope="session")
def compiled_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the weights of a tiny flow in `weights`, and with its compiled velocity in `cache`.

    The processes of pytest-xdist share the cache, so that one of them compiles.
    """
    from enflow.model.checkpoint import compile_weights
    from tests.model.flow.compiled_weights import tiny_weights

    place = tmp_path_factory.mktemp("compiled")
    tiny_weights(place / "weights")
    parallel = "PYTEST_XDIST_WORKER" in os.environ
    cache = tmp_path_factory.getbasetemp().parent / "compiled" if parallel else place / "made"
    cache.mkdir(exist_ok=True)
    (place / "cache").symlink_to(cache, target_is_directory=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENFLOW_CACHE", str(place / "cache"))
        compile_weights(place / "weights")
    return place


@pytest.fixture(scope="session", autouse=True)
def _jobs_of_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the jobs of the tests away from those of the user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENFLOW_JOBS_URL", f"sqlite:///{tmp_path_factory.mktemp('jobs')}/jobs.sqlite")
        yield


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """Restore the handlers of the root logger, which the command `enflow serve` replaces."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Networks that a test or its fixtures make have the same weights each time, whatever ran before."""
    torch.manual_seed(0)
