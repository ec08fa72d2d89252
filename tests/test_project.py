"""The rules of the project: import directions, pins, declared dependencies, the Makefile, code and prose."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import distribution, packages_distributions, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import enflow

REPOSITORY = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
EXTRAS = PYPROJECT["project"]["optional-dependencies"]
SOURCES = sorted(
    path
    for package in ("model", "service")
    for path in (REPOSITORY / package).rglob("*.py")
    if "node_modules" not in path.parts
)


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout: which files are tracked is unknown")
    return [REPOSITORY / name for name in listed.stdout.split("\0") if name and (REPOSITORY / name).is_file()]


# Import directions and dependencies


def test_imports_follow_the_contracts() -> None:
    """Run import-linter in a process of its own: in this one it disables the loggers of all other tests."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache"]
    linted = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert linted.returncode == 0, linted.stdout + linted.stderr


def third_party_imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.partition(".")[0]


def imported_distributions() -> set[str]:
    modules = {module for path in SOURCES for module in third_party_imports(path)}
    providers = packages_distributions()
    outside = modules - set(sys.stdlib_module_names) - {"enflow"}
    return {canonicalize_name(providers[module][0]) for module in outside if module in providers}


def declared(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(requirement).name) for requirement in requirements}


def test_every_import_is_a_declared_dependency() -> None:
    optional = declared(EXTRAS["ray"] + EXTRAS["posebusters"] + EXTRAS["mcp"])
    known = declared(PYPROJECT["project"]["dependencies"]) | optional | {"pydantic-core"}  # pydantic fixes its version
    assert imported_distributions() <= known


def test_every_dependency_is_imported() -> None:
    # FastAPI reads multipart bodies with the first; the second contains the files of the Swagger UI.
    used_by_others = {"python-multipart", "fastapi-offline"}
    unused = declared(PYPROJECT["project"]["dependencies"]) - imported_distributions() - used_by_others
    assert not unused


# Pins


@cache
def pins() -> dict[str, str]:
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    for requirement in requirements:
        assert [specifier.operator for specifier in requirement.specifier] == ["=="], f"{requirement} is no exact pin"
    return {canonicalize_name(r.name): next(iter(r.specifier)).version for r in requirements}


def closure(name: str, extras: frozenset[str]) -> Iterator[str]:
    """Yield every installed distribution that a distribution with extras needs on this machine."""
    waiting, seen = [(name, extras)], set()
    while waiting:
        item = waiting.pop()
        if item in seen:
            continue
        seen.add(item)
        yield canonicalize_name(item[0])
        for text in distribution(item[0]).requires or ():
            requirement = Requirement(text)
            markers = [{"extra": extra} for extra in item[1] or {""}]
            if requirement.marker is None or any(map(requirement.marker.evaluate, markers)):
                waiting.append((requirement.name, frozenset(requirement.extras)))


def brought_by_cuda(name: str) -> bool:
    return name.startswith(("nvidia-", "cuda-", "triton"))  # torch's CUDA build pins these exactly itself


def test_everything_installed_is_pinned_and_is_the_pinned_version() -> None:
    needed = {name for name in closure("enflow", frozenset({"test"})) if name != "enflow" and not brought_by_cuda(name)}
    assert needed <= pins().keys()
    assert {name: Version(version(name)).public for name in needed} == {name: pins()[name] for name in needed}


def test_every_declared_requirement_is_pinned() -> None:
    requirements = PYPROJECT["project"]["dependencies"] + [name for extra in EXTRAS.values() for name in extra]
    assert declared(requirements) <= pins().keys()


def test_one_version_everywhere() -> None:
    found = PYPROJECT["project"]["version"]
    assert enflow.__version__ == found
    assert f'image.version="{found}"' in (REPOSITORY / "Dockerfile").read_text()
    assert set(re.findall(r"image: enflow:([\d.]+)", (REPOSITORY / "docker-compose.yml").read_text())) == {found}


# The Makefile


def make(*arguments: str, path: Path | None = None) -> str:
    search = f"{path}:{os.environ['PATH']}" if path else os.environ["PATH"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))} | {"PATH": search}
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, env=environment, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def nvidia_smi(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho 'output even on failure'\nexit {request.param}\n")
    program.chmod(0o755)
    return tmp_path


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has one build of torch")
@pytest.mark.parametrize(
    ("nvidia_smi", "build"), [(0, "torch==2.13.0"), (9, "torch==2.13.0+cpu")], indirect=["nvidia_smi"]
)
def test_install_takes_the_cuda_build_only_where_a_gpu_answers(nvidia_smi: Path, build: str, tmp_path: Path) -> None:
    commands = make("--dry-run", "install", f"VENV={tmp_path}/venv", path=nvidia_smi)
    assert re.findall(r"torch==\S+", commands) == [build]


def test_a_second_install_does_nothing_until_the_requirements_change(tmp_path: Path) -> None:
    stamp = tmp_path / "installed"
    stamp.touch()
    assert not make("--dry-run", "install", f"VENV={tmp_path}").startswith("test")
    os.utime(stamp, (0, 0))
    assert "--constraint constraints.txt --editable ." in make("--dry-run", "install", f"VENV={tmp_path}")


def test_help_lists_the_documented_targets() -> None:
    targets = set(re.findall(r"^  make (\S+)", make("help"), re.MULTILINE))
    assert targets >= {"install", "serve", "test", "check", "bench", "bench-quick"}


def test_ci_is_make_test() -> None:
    script = REPOSITORY / ".ci/run"
    assert os.access(script, os.X_OK)
    assert script.read_text().splitlines()[-1] == "exec make test"


# Code and prose


def test_tracked_files_name_no_machine_and_no_registry() -> None:
    host = r"pypi\.org|pythonhosted|npmjs\.(org|com)|debian\.org|/simple/"
    place = r"(?<![\w.])/(work/(main|shared)|root|home/\w+|Users/\w+|opt/(wheels|pypi))\b"
    found = [
        f"{path.relative_to(REPOSITORY)}: {match.group()}"
        for path in tracked_files()
        if path != Path(__file__) and path.suffix not in {".safetensors", ".png", ".npz"}
        for match in re.finditer(f"{host}|{place}", path.read_text(errors="replace"))
    ]
    assert not found


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse(path.read_text())
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def where(path: Path, line: int) -> str:
    return f"{path.relative_to(REPOSITORY)}:{line}"


@cache
def function_lengths() -> dict[str, int]:
    """The number of lines of every function, by its place and name."""
    return {
        f"{where(path, node.lineno)} {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path in SOURCES
        for node in functions(path)
    }


def test_no_function_is_long() -> None:
    assert {name: length for name, length in function_lengths().items() if length > 60} == {}


def test_most_functions_are_short() -> None:
    lengths = sorted(function_lengths().values())
    assert lengths[len(lengths) // 2] < 10
    assert lengths[9 * len(lengths) // 10] < 30


def test_no_file_is_long() -> None:
    lengths = {str(path.relative_to(REPOSITORY)): len(path.read_text().splitlines()) for path in SOURCES}
    assert {name: length for name, length in lengths.items() if length > 300} == {}


def test_no_class_name_is_defined_twice() -> None:
    places: dict[str, list[str]] = {}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(where(path, node.lineno))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and text of every docstring, those of attributes included."""
    for node in ast.walk(ast.parse(path.read_text())):
        statements = getattr(node, "body", None)
        for statement in statements if isinstance(statements, list) else ():
            value = statement.value if isinstance(statement, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield statement.lineno, value.value.strip()


def test_no_docstring_begins_with_a_fragment() -> None:
    fragment = re.compile(r"(Of|What|Whether|Its|As|Where|Who)\b")
    python = [path for path in tracked_files() if path.suffix == ".py"]
    found = [
        f"{where(path, line)}: {text.splitlines()[0]}"
        for path in python
        for line, text in docstrings(path)
        if fragment.match(text)
    ]
    assert not found, "\n".join(found)


def test_no_line_of_markdown_is_long() -> None:
    pages = [path for path in tracked_files() if path.suffix == ".md"]
    found = [
        where(path, number)
        for path in pages
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if len(line) > 120
    ]
    assert pages
    assert not found


def test_the_readme_is_short() -> None:
    assert len((REPOSITORY / "README.md").read_text().splitlines()) <= 200


def test_no_file_name_says_nothing() -> None:
    assert not [path for path in SOURCES if re.search(r"util|helper|misc|common", path.name)]


def test_bundled_evaluations_name_weights_of_the_repository() -> None:
    """The commands that made them can be run by anyone."""
    evaluations = sorted((REPOSITORY / "weights").rglob("evaluation.json"))
    commands = [made["command"] for path in evaluations for made in json.loads(path.read_text())["made"].values()]
    assert len(commands) >= len(evaluations) > 0
    known = r"enflow evaluate weights/[\w/-]+ |python -m benchmarks\.own_samples \d+ weights/"
    assert not [each for each in commands if not re.match(known, each)]


def test_nothing_unpickles_weights() -> None:
    """A pickle can execute code, so weights are safetensors; only the importer reads pickles, with weights_only.

    The processes of one service send each other pickles.
    """
    loads = [
        f"{path.relative_to(REPOSITORY)}:{number}"
        for path in SOURCES
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"torch\.load\(|pickle\.loads?\(|allow_pickle=True|weights_only=False", line)
        and "weights_only=True" not in line
        and path != REPOSITORY / "service/client/remote_client.py"
    ]
    assert not loads
