"""What all commands do with errors."""

import dataclasses
import errno
import importlib
import io
import math
import os
import subprocess
import sys
import types

import pytest
from rich.console import Console

from arcface_jax.commands.command import (
    check_new_file,
    check_numbers,
    make_folder,
    new_console,
    progress_bar,
    read_options,
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


def test_warnings_of_libraries_are_not_shown():
    """In a process of its own: here they are errors. A person who asks Python for them has them."""
    program = (
        "import warnings; from arcface_jax.commands.command import run_command\n"
        "run_command(lambda: warnings.warn('Corrupt EXIF data', UserWarning))"
    )
    for options, shown in (([], False), (["-W", "default"], True)):
        call = [sys.executable, *options, "-c", program]
        done = subprocess.run(call, capture_output=True, text=True, check=True)
        assert ("Corrupt EXIF data" in done.stderr) == shown


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float = 0.1
    clip: float = math.inf


@dataclasses.dataclass(frozen=True)
class Options:
    threshold: float | None = None
    count: int = 1
    wanted: tuple[float, ...] = (0.1,)
    inner: Inner = Inner()


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("--threshold nan", "--threshold is nan; pass a finite number"),
        ("--threshold inf", "--threshold is inf; pass a finite number"),
        ("--threshold=-inf", "--threshold is -inf; pass a finite number"),
        ("--wanted 0.1 nan", "--wanted is nan; pass a finite number"),
        ("--inner.rate nan", "--inner.rate is nan; pass a finite number"),
        ("--inner.clip nan", "--inner.clip is nan; pass a finite number"),
        ("--threshold 1e300 --count 3 --inner.clip inf", None),
    ],
)
def test_no_option_is_nan_or_infinite(typed, said):
    if said is None:
        read_options(Options, "train", "", typed.split())
        return
    with pytest.raises(InputError) as error:
        read_options(Options, "train", "", typed.split())
    assert str(error.value) == said


def test_options_have_ranges():
    check_numbers(Options(0.5), threshold=(-1.0, 1.0), count=(1, math.inf))
    check_numbers(Options(), threshold=(-1.0, 1.0))
    with pytest.raises(InputError, match=r"^--threshold is 3; pass a number in \[-1, 1\]$"):
        check_numbers(Options(3.0), threshold=(-1.0, 1.0))
    with pytest.raises(InputError, match=r"^--count is 0; pass a finite number not below 1$"):
        check_numbers(Options(count=0), count=(1, math.inf))


@pytest.mark.parametrize(
    ("name", "typed", "said"),
    [
        ("identify", "name m g p --threshold nan", "--threshold is nan"),
        ("identify", "verify m a b --threshold 3", r"--threshold is 3; pass a number in \[-1, 1\]"),
        ("identify", "search g p o.csv --candidates 0", "--candidates is 0"),
        ("embed", "m s o.npy --batch-size 0", "--batch-size is 0"),
        ("evaluate", "--fars 0.1 2", "--fars is 2"),
        ("evaluate_ijb", "--features f --meta m --replicates -1", "--replicates is -1"),
        ("toy", "--quantile 2", "--quantile is 2"),
        ("invert", "--learning-rate -1", "--learning-rate is -1"),
        ("plan", "1000 --rate nan", "--rate is nan"),
        ("convert", "s d --image-size 0", "--image-size is 0"),
        ("neighbours", "--far nan", "--far is nan"),
        ("train", "--loss.margin nan", "--loss.margin is nan"),
    ],
)
def test_no_command_takes_a_number_out_of_range(name, typed, said, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, *typed.split()])
    with pytest.raises(InputError, match=f"^{said}"):
        importlib.import_module(f"experiments.{name}").main()
    assert not list(tmp_path.iterdir())


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
