"""Tests of the functions that all benchmarks share."""

from pathlib import Path

import pytest

from benchmarks import measure

MODULES = sorted(Path(measure.__file__).parent.glob("bench_*.py"))


@pytest.mark.parametrize("module", MODULES, ids=[path.stem for path in MODULES])
def test_a_benchmark_with_arguments_takes_quick(module: Path) -> None:
    text = module.read_text()
    assert '"--quick"' in text or not ("argparse" in text or "sys.argv" in text)


@pytest.mark.parametrize("quick", [False, True])
def test_a_quick_benchmark_changes_neither_results_nor_docs(
    quick: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "QUICK", quick)
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    page = tmp_path / "page.md"
    page.write_text("<!-- table -->\nold\n<!-- end -->\n")
    measure.write_results("found", "title", ["column"], [["cell"]], {"fact": 1})
    measure.write_section(page, "table", "new")
    assert (tmp_path / "found.json").exists() != quick
    assert ("old" in page.read_text()) == quick
