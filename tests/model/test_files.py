"""Files are replaced as a whole or not at all."""

import errno
import os
import threading

import pytest

from enflow.model.files import output, replace_file, replacement, write_output


def interrupted(path, opened=replacement):
    with opened(path) as file:
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


def test_a_name_as_long_as_the_system_takes_is_replaced(tmp_path):
    path = tmp_path / ("m" * 255)
    replace_file(path, b"new")
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_file_of_a_user(tmp_path, monkeypatch):
    def full(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path, link = tmp_path / "m.xyz", tmp_path / "link.xyz"
    path.write_text("old")
    link.symlink_to(path)
    monkeypatch.setattr(os, "fsync", full)
    for each in (path, link):
        with pytest.raises(OSError, match="No space left"):
            write_output(each, "new")
    assert path.read_text() == "old"
    assert {each.name for each in tmp_path.iterdir()} == {"m.xyz", "link.xyz"}


def test_an_output_follows_a_link_and_keeps_the_mode(tmp_path):
    path, link, dangling = tmp_path / "m.xyz", tmp_path / "link.xyz", tmp_path / "new.xyz"
    path.write_text("old")
    path.chmod(0o640)
    link.symlink_to(path)
    dangling.symlink_to(tmp_path / "made.xyz")
    write_output(link, "new")
    write_output(dangling, "new")
    assert (link.is_symlink(), dangling.is_symlink()) == (True, True)
    assert (path.read_text(), (tmp_path / "made.xyz").read_text()) == ("new", "new")
    assert path.stat().st_mode & 0o777 == 0o640


def test_an_output_into_a_pipe_or_a_device_is_whole_or_nothing(tmp_path):
    pipe, device = tmp_path / "pipe.xyz", tmp_path / "null.xyz"
    os.mkfifo(pipe)
    device.symlink_to("/dev/null")
    found = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_bytes()))
    reader.start()
    with pytest.raises(KeyboardInterrupt):
        interrupted(pipe, output)
    write_output(pipe, "new")
    reader.join(10)
    write_output(device, "new")
    assert found == [b"new"]
    assert (pipe.is_fifo(), device.is_symlink()) == (True, True)


def test_a_file_behind_standard_output_stays_that_file(tmp_path, capfd):
    link = tmp_path / "m.xyz"
    link.symlink_to("/dev/stdout")
    write_output(link, "new")
    assert capfd.readouterr().out == "new"
    assert link.is_symlink()
