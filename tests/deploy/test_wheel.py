"""The wheel: one package with the weights and the built page, which works away from the checkout."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCES = ["model", "service", "weights", "__init__.py", "setup.py", "pyproject.toml", "README.md", "LICENSE"]
UNRELATED = 'raise ImportError("a file of the user was imported")\n'


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the sources, so that no file is written into the checkout."""
    if not (REPOSITORY / "service/web/dist/index.html").is_file():
        pytest.skip("the page is not built: run `make page`")
    copy, place = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("node_modules", "__pycache__"))
        else:
            shutil.copy(source, copy / name)
    command = [sys.executable, "setup.py", "--quiet", "bdist_wheel", "--dist-dir", str(place)]
    built = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (found,) = place.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def names(wheel: Path) -> list[str]:
    return zipfile.ZipFile(wheel).namelist()


def test_the_wheel_installs_one_package_and_its_metadata(names: list[str]) -> None:
    assert {name.split("/")[0] for name in names} == {"enflow", "enflow-0.2.0.dist-info"}
    assert "enflow/setup.py" not in names
    assert not [name for name in names if name.startswith("enflow/tests") or "/run/" in name]


def test_the_wheel_contains_every_module(names: list[str]) -> None:
    modules = [path for package in ("model", "service") for path in (REPOSITORY / package).rglob("*.py")]
    expected = {f"enflow/{path.relative_to(REPOSITORY)}" for path in modules if "node_modules" not in path.parts}
    assert {name for name in names if name.endswith(".py")} == expected | {"enflow/__init__.py"}


def test_the_wheel_contains_all_weights(names: list[str]) -> None:
    bundled = [path for path in (REPOSITORY / "weights").iterdir() if path.is_dir()]
    assert len(bundled) >= 4
    expected = {
        f"enflow/weights/{place.name}/{file}" for place in bundled for file in ("card.json", "weights.safetensors")
    }
    assert expected <= set(names)


def test_the_wheel_contains_the_built_page(names: list[str]) -> None:
    built = [path for path in (REPOSITORY / "service/web/dist").rglob("*") if path.is_file()]
    assert {f"enflow/{path.relative_to(REPOSITORY)}" for path in built} <= set(names)
    assert not [name for name in names if name.startswith("enflow/service/web/") and "/dist/" not in name]


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that contains the unpacked wheel: what pip installs, without a second PyTorch."""
    place = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(wheel).extractall(place)
    return place


def run(installed: Path, folder: Path, *arguments: str) -> str:
    """Run Python in a folder with files named like our packages; the checkout is not on the path."""
    for name in ("model", "service", "weights"):
        (folder / f"{name}.py").write_text(UNRELATED)
    path = os.pathsep.join([str(installed), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ENFLOW_")} | {"PYTHONPATH": path}
    command = [sys.executable, "-S", *arguments]  # -S: without site-packages, where the editable install is
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_installed_package_is_imported_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    program = "import enflow, enflow.service.settings as s; print(enflow.__file__); print(s.BUNDLED_WEIGHTS)"
    printed = run(installed, tmp_path, "-c", program).splitlines()
    assert printed == [str(installed / "enflow/__init__.py"), str(installed / "enflow/weights/qm9")]


def test_the_python_api_works_away_from_the_checkout(installed: Path, tmp_path: Path) -> None:
    program = "import enflow; print(*(m.n_atoms for m in enflow.load('qm9').sample(9, rtol=0.01, atol=0.01)))"
    assert run(installed, tmp_path, "-c", program) == "9\n"


def test_the_commands_work_away_from_the_checkout(installed: Path, tmp_path: Path) -> None:
    command = ["-m", "enflow.service"]
    draft = ["--tolerance", "draft"]
    run(installed, tmp_path, *command, "sample", "-n", "2", "--n-atoms", "5", "--seed", "1", *draft, "--out", "two.xyz")
    scored = run(installed, tmp_path, *command, "likelihood", "two.xyz", "--json", *draft)
    assert len(json.loads(scored)["results"]) == 2
