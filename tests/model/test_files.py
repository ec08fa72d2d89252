"""Files are replaced as a whole or not at all."""

import pytest

from enflow.model.files import replace_file, replacement


def interrupted(path):
    with replacement(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt


def test_an_error_leaves_the_old_content_and_nothing_beside_it(tmp_path):
    path = tmp_path / "card.json"
    replace_file(path, b"old")
    with pytest.raises(KeyboardInterrupt):
        interrupted(path)
    assert path.read_bytes() == b"old"
    replace_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]
