"""What all commands do with errors."""

import errno
import io
import os
import sys
import types

import pytest
from rich.console import Console

from arcface_jax.commands.command import (
    check_new_file,
    make_folder,
    new_console,
    progress_bar,
    run_command,
    say,
    table_of,
)
from arcface_jax.errors import InputError


def raises(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "; choose another place"),
        (errno.ENOENT, "; check the path"),
        (errno.EMFILE, ""),
    ],
)
def test_an_error_of_the_system_is_one_line_with_the_remedy_that_helps(
    type_command, number, remedy
):
    status, _, err = type_command(raises(OSError(number, os.strerror(number), "some/file")))
    assert status == 2
    assert err == f"error: some/file: {os.strerror(number)}{remedy}\n"


def test_a_missing_input_is_not_told_to_lie_elsewhere(type_command, tmp_path):
    status, _, err = type_command(lambda: (tmp_path / "absent").read_text())
    assert status == 2
    assert err == f"error: {tmp_path / 'absent'}: No such file or directory; check the path\n"


def test_threads_that_a_damaged_checkpoint_leaves_behind_are_not_heard(monkeypatch):
    heard = []
    monkeypatch.setattr(sys, "unraisablehook", heard.append)
    for _ in range(2):
        with pytest.raises(SystemExit):
            run_command(lambda: None)
    for said in ("Event loop is closed", "another"):
        sys.unraisablehook(types.SimpleNamespace(exc_value=RuntimeError(said)))
    assert [str(one.exc_value) for one in heard] == ["another"]


def test_ctrl_c_has_a_status_of_its_own(type_command):
    assert type_command(raises(KeyboardInterrupt()))[0] == 130


def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path, monkeypatch):
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    check_new_file(tmp_path / "a" / "new.npz")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file: exists already; choose another file"):
        check_new_file(tmp_path / "file")
    with pytest.raises(
        InputError, match=r"file/x: cannot be made a folder \(Not a directory\); choose another"
    ):
        make_folder(tmp_path / "file" / "x")

    def read_only(dir):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    with pytest.raises(InputError, match=r"a: cannot be written \(Read-only file system\)"):
        make_folder(tmp_path / "a")
    with pytest.raises(InputError, match=r"a: cannot be written \(Read-only file system\)"):
        check_new_file(tmp_path / "a" / "new.npz")


def printed(capsys, act):
    act(new_console())
    return capsys.readouterr().out


def test_a_log_has_no_columns(capsys):
    path = "/data/" + "folder/" * 60 + "image.jpg"
    rows = [(path, "name " * 60, "[b]"), ("x", "y", "z")]
    table = table_of(("photo", "person", "note"), rows, title="A title", caption="word " * 100)
    said = printed(capsys, lambda console: console.print(table))
    assert (said.count(path), said.count("…"), said.count("[b]")) == (1, 0, 1)
    assert len([line for line in said.splitlines() if "name name" in line]) == 1
    assert "word " * 99 in said
    assert printed(capsys, lambda console: console.print("word " * 100)) == "word " * 100 + "\n"
    assert printed(capsys, lambda console: say(console, path)) == path + "\n"


def test_progress_in_a_log_is_lines_and_nothing_for_short_work(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("arcface_jax.progress.clock", lambda: now[0])

    def work(seconds):
        def act(console):
            with progress_bar(console, "Detecting [x]", 100) as move:
                move(0)
                now[0] += seconds
                move(50)

        return printed(capsys, act)

    assert work(9) == ""
    assert work(10) == (
        "Detecting [x]: 50 of 100 (50 %), 5.0 a second, 10 s left\n"
        "Detecting [x]: 50 of 100 (50 %) in 10 s\n"
    )


def test_progress_on_a_terminal_is_a_bar_that_names_what_is_begun():
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with progress_bar(console, "Planning [x]", 2) as move:
        move(0, "first[/b]")
        move(1, "")
    drawn = console.file.getvalue()
    assert "Planning [x]" in drawn
    assert "1/2" in drawn
