"""Raw files in the format of the authors, and the published split."""

import hashlib
import io
import tarfile

import numpy as np
import pytest

from enflow.model.errors import DataError
from enflow.model.training.data import qm9_prepare
from enflow.model.training.data.download import RemoteFile

METHANE = (
    "5\ngdb {index}\t157.7118\t157.70997\t157.70699\t0.\t13.21\t-0.3877\t0.1171\t0.5048\t35.3641\t0.044749\t"
    "-40.47893\t-40.476062\t-40.475117\t-40.498597\t6.469\t\n"
    "C\t-0.0126981359\t 1.0858041578\t 0.0080009958\t-0.535689\n"
    "H\t 0.002150416\t-8.4813*^-6\t 0.0019761204\t 0.133921\n"
    "H\t 1.0117308433\t 1.4637511618\t 0.0002765748\t 0.133922\n"
    "H\t-0.540815069\t 1.4475266138\t-8.7664371*^-1\t 0.133923\n"
    "H\t-0.5238136345\t 1.4379326443\t 0.9063972942\t 0.133923\n"
    "1341.307\t1341.3284\t1341.365\t1562.6731\nC\tC\t\nInChI=1S/CH4/h1H4\tInChI=1S/CH4/h1H4\n"
)
WATER = (
    "3\ngdb {index}\t799.58812\t437.90386\nO\t-0.0343604951\t 0.9775395708\t 0.0076015923\t-0.589706\n"
    "H\t 0.0647664923\t 0.0205721989\t 0.0015346341\t 0.294853\n"
    "H\t 0.8717903737\t 1.3007924048\t 0.0006931336\t 0.294853\n"
    "1671.4222\t3803.6305\t3907.698\nO\tO\t\nInChI=1S/H2O/h1H2\tInChI=1S/H2O/h1H2\n"
)
HEADER = "The following 2 molecules failed\n\nIndex  SMILES\n\n"


def archive_of(folder, texts, excluded, **counts) -> qm9_prepare.Archive:
    """Write raw files into a folder under the official names and describe them."""
    with tarfile.open(folder / "raw.tar.bz2", "w:bz2") as tar:
        for index, text in texts:
            member = tarfile.TarInfo(f"dsgdb9nsd_{index:06d}.xyz")
            content = text.format(index=index).encode()
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    (folder / "bad.txt").write_text(HEADER + "".join(f"   {i}   CC  C\n" for i in excluded) + "\nThe end 7\n")
    files = [
        RemoteFile(path.name, "http://127.0.0.1:9/", path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in (folder / "raw.tar.bz2", folder / "bad.txt")
    ]
    return qm9_prepare.Archive(*files, n_molecules=len(texts), n_uncharacterized=len(excluded), **counts)


def silent(what: str, done: int, total: int) -> None:
    pass


def test_numbers_in_mathematica_notation():
    molecule = qm9_prepare.parse(METHANE.format(index=1), "here")
    assert molecule.index == 1
    assert molecule.atomic_numbers.tolist() == [6, 1, 1, 1, 1]
    assert molecule.positions[1] == pytest.approx([0.002150416, -8.4813e-06, 0.0019761204])
    assert molecule.positions[3, 2] == pytest.approx(-0.87664371)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "IndexError"),
        ("2\ngdb 1 0.0\nC 0 0 0 0\n", "invalid literal|shape"),
        (WATER.replace("O\t-0.03", "Xx\t-0.03", 1), "KeyError 'Xx'"),
        (WATER.replace("-0.0343604951", "1.2.3", 1), "1.2.3"),
        (WATER.replace("-0.0343604951", "nan", 1), "3 atoms"),
        ("1\ngdb 1\nC 0.0 0.0\n", "shape"),
    ],
)
def test_what_is_no_raw_file_is_named_with_its_place(text, found):
    with pytest.raises(DataError, match=f"raw.tar.bz2:a.xyz .*({found})"):
        qm9_prepare.parse(text.format(index=1), "raw.tar.bz2:a.xyz")


def test_prepared_file_holds_what_the_raw_files_say(tmp_path):
    texts = [(i, WATER if i % 2 else METHANE) for i in (3, 1, 2, 5, 4, 6, 7)]  # in no order
    archive = archive_of(tmp_path, texts, excluded=[2, 5], n_train=3, n_valid=1)
    reports = []
    path = qm9_prepare.prepare(tmp_path / "out", lambda *update: reports.append(update), tmp_path, archive)
    with np.load(path) as file:
        assert file["index"].tolist() == [1, 3, 4, 6, 7]
        assert file["num_atoms"].tolist() == [3, 3, 5, 5, 3]
        assert file["atomic_numbers"].tolist() == [8, 1, 1, 8, 1, 1, 6, 1, 1, 1, 1, 6, 1, 1, 1, 1, 8, 1, 1]
        assert file["positions"][0] == pytest.approx([-0.0343604951, 0.9775395708, 0.0076015923])
        assert sorted(file["split"].tolist()) == [0, 0, 0, 1, 2]
        types = {name: file[name].dtype.name for name in file.files}
    assert types == {
        "index": "int32", "num_atoms": "uint8", "atomic_numbers": "uint8",
        "positions": "float32", "split": "uint8", "source": "uint8",
    }  # fmt: skip
    assert reports[-1] == ("reading molecules", 7, 7)


def test_the_split_is_the_published_one(shared):
    excluded = np.load(shared / "data" / "uncharacterized_index.npy")
    included = np.setdiff1d(np.arange(1, 133_886), excluded)
    parts = qm9_prepare.split(included)
    assert np.bincount(parts).tolist() == [100_000, 17_748, 13_083]
    with np.load(shared / "data" / "qm9.npz") as file:
        here = np.isin(included, file["index"])
        assert np.array_equal(parts[here], file["split"])


def test_a_missing_molecule_is_named(tmp_path):
    archive = archive_of(tmp_path, [(1, WATER), (2, WATER), (4, WATER)], excluded=[1])
    with pytest.raises(DataError, match="lacks 1 of 3 molecules, the first is 3"):
        qm9_prepare.prepare(tmp_path, silent, tmp_path, archive)
    assert not (tmp_path / "qm9.npz").exists()


def test_a_list_of_another_length_is_refused(tmp_path):
    archive_of(tmp_path, [(1, WATER)], excluded=[5, 6])
    with pytest.raises(DataError, match="lists 2 molecules; expected 3054"):
        qm9_prepare.read_uncharacterized(tmp_path / "bad.txt", 3054)


def test_a_damaged_archive_is_refused(tmp_path):
    archive_of(tmp_path, [(i, METHANE) for i in range(1, 2000)], excluded=[])
    raw = (tmp_path / "raw.tar.bz2").read_bytes()
    (tmp_path / "raw.tar.bz2").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(DataError, match="is damaged"):
        list(qm9_prepare.read_archive(tmp_path / "raw.tar.bz2"))


def test_a_folder_without_the_files_says_which_and_where_to_get_it(tmp_path):
    with pytest.raises(DataError, match=r"no dsgdb9nsd\.xyz\.tar\.bz2 in .*figshare"):
        qm9_prepare.prepare(tmp_path, silent, tmp_path)


def test_a_file_that_is_not_the_official_one_is_refused(tmp_path):
    (tmp_path / "dsgdb9nsd.xyz.tar.bz2").write_bytes(b"<html>challenge</html>")
    with pytest.raises(DataError, match="has 22 bytes; expected 86144227"):
        qm9_prepare.prepare(tmp_path, silent, tmp_path)
