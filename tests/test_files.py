"""Files appear whole or not at all."""

import os
import stat

import pytest

from arcface_jax.files import replace_whole, whole_file, write_whole


def test_text_and_bytes_are_written_as_they_are(tmp_path):
    write_whole(tmp_path / "text", "θ\n")
    write_whole(tmp_path / "bytes", b"\x00\xff\r\n")
    assert (tmp_path / "text").read_bytes() == "θ\n".encode()
    assert (tmp_path / "bytes").read_bytes() == b"\x00\xff\r\n"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["bytes", "text"]


def test_the_old_content_stays_until_the_new_is_whole(tmp_path):
    path = tmp_path / "results.json"
    write_whole(path, "old")

    def is_interrupted():
        with whole_file(path) as file:
            file.write(b"ne")
            file.flush()
            assert path.read_text() == "old"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        is_interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_content_is_on_the_disk_before_the_name_and_the_name_before_the_end(tmp_path, monkeypatch):
    done = []

    def synced(number):
        done.append("folder" if stat.S_ISDIR(os.fstat(number).st_mode) else "file")

    monkeypatch.setattr(os, "fsync", synced)
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda *paths: (done.append("replace"), replace(*paths)))
    write_whole(tmp_path / "config.json", "{}")
    assert done == ["file", "replace", "folder"]


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    write_whole(path, "old")

    def full(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_lies_beside_takes_the_name(tmp_path):
    (tmp_path / "rows.partial.npy").write_bytes(b"rows")
    replace_whole(tmp_path / "rows.partial.npy", tmp_path / "rows.npy")
    assert [file.name for file in tmp_path.iterdir()] == ["rows.npy"]


def test_a_folder_that_is_absent_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "absent" / "file", "")
