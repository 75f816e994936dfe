"""What all commands do with errors."""

import dataclasses
import errno
import importlib
import io
import logging
import math
import os
import subprocess
import sys
import types
from typing import Annotated, get_args

import pytest
import tyro
from rich.console import Console

from arcface_jax.commands.command import (
    Cosine,
    Count,
    Positive,
    Share,
    check_new_file,
    check_numbers,
    make_folder,
    new_console,
    progress_bar,
    range_of,
    read_options,
    run_command,
    say,
    table_of,
)
from arcface_jax.commands.main import commands
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


def test_remarks_are_shown_plain_whoever_set_up_logging(type_command):
    """As TFDS's logging does, which gives each line a level and a name."""
    root = logging.getLogger()
    spoilt = logging.StreamHandler(sys.stdout)
    spoilt.setFormatter(logging.Formatter(logging.BASIC_FORMAT))
    root.addHandler(spoilt)
    try:
        _, out, err = type_command(
            lambda: logging.getLogger("arcface_jax").warning("1 folder holds no image")
        )
    finally:
        root.removeHandler(spoilt)
    assert (out, err) == ("", "1 folder holds no image\n")
    assert logging.getLogger("arcface_jax").propagate


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


@dataclasses.dataclass(frozen=True)
class Ranged:
    place: Annotated[Count, tyro.conf.Positional] = 1
    threshold: Cosine | None = None
    counts: tuple[Count, ...] = (1,)
    fars: tuple[Share, ...] = ()
    rate: Positive = 1.0
    seed: int = 0


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"threshold": 0.5, "counts": (3, 4), "fars": (0.0, 1.0), "seed": 2**32 - 1}, None),
        ({"threshold": 3.0}, "--threshold is 3; pass a number in [-1, 1]"),
        ({"counts": (2, 0)}, "--counts is 0; pass a finite number not below 1"),
        ({"counts": ()}, "--counts is empty; give 1 or more"),
        ({"counts": (10**30,)}, "--counts is a number of 31 digits; pass less"),
        ({"place": 0}, "PLACE is 0; pass a finite number not below 1"),
        ({"rate": 0.0}, "--rate is 0; pass a finite number above 0"),
        ({"fars": (0.1, 1.5)}, "--fars is 1.5; pass a number in [0, 1]"),
        ({"seed": -1}, "--seed is -1; pass a number in [0, 4.29497e+09]"),
        ({"seed": 2**32}, "--seed is 4.29497e+09; pass a number in [0, 4.29497e+09]"),
    ],
)
def test_options_have_ranges(changed, said):
    if said is None:
        check_numbers(Ranged(**changed))
        return
    with pytest.raises(InputError) as error:
        check_numbers(Ranged(**changed))
    assert str(error.value) == said


def options_of(name):
    """The classes of a command's options."""
    module = importlib.import_module(f"experiments.{name}")
    if name == "benchmark":
        names = importlib.import_module("experiments.benchmark.__main__").BENCHMARKS.values()
        return [
            getattr(importlib.import_module(f"experiments.benchmark.{file}"), options)
            for file, options, _ in names
        ]
    if name in ("reliability", "study"):
        module = importlib.import_module(f"experiments.{name}.__main__")
    named = ("Arguments", "Config", "Check", "Enrol", "Name", "Verify", "TimedSearch", "PresetPlan")
    return [
        one
        for one in vars(module).values()
        if dataclasses.is_dataclass(one)
        and isinstance(one, type)
        and one.__module__ == module.__name__
        and one.__name__.endswith(named)
    ]


def numbers_in(kind):
    """int, float, or what a type has of them."""
    inside = (each for part in get_args(kind) for each in numbers_in(part))
    return {kind} & {int, float} | {*inside}


@pytest.mark.parametrize("name", sorted(commands()))
@pytest.mark.filterwarnings("ignore")
def test_every_number_of_every_command_is_taken_or_refused_in_one_line(name):
    """Zero, negative, no number, infinite, and more than any computer has."""
    assert options_of(name)
    for options in options_of(name):
        needed = [field for field in dataclasses.fields(options) if is_needed(field)]
        for field in dataclasses.fields(options):
            if not numbers_in(field.type):
                continue
            limits = range_of(field.type)
            assert limits or field.name in ("margin",), f"{options} {field.name} has no range"
            low, high = (limits.low, limits.high) if limits else (-math.inf, math.inf)
            for value in (0, -1, math.nan, math.inf, -math.inf, 10**30, 0.5):
                given = (value,) if isinstance(field.default, tuple) else value
                chosen = options(**{one.name: "x" for one in needed} | {field.name: given})
                fits = math.isfinite(value) and low <= value <= high and value != 10**30
                if fits and not (limits and limits.open_low and value == low):
                    check_numbers(chosen)
                    continue
                with pytest.raises(InputError) as error:
                    check_numbers(chosen)
                name_of = field.name.replace("_", "-")
                assert str(error.value).lower().removeprefix("--").startswith(f"{name_of} is ")


def is_needed(field):
    return {field.default, field.default_factory} == {dataclasses.MISSING}


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 7.11 PiB for an array with shape (1000000000, 1000000)"),
        OverflowError("Python int too large to convert to C long"),
        ValueError("Maximum allowed dimension exceeded"),
        ValueError("array is too big; `arr.size * arr.dtype.itemsize` is larger than the maximum"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 4000000000000 bytes."),
    ],
)
def test_what_asks_for_too_much_is_one_line(type_command, error):
    status, _, said = type_command(raises(error))
    assert (status, said.count("\n")) == (2, 1)
    assert said.startswith("error: this takes more memory than there is; choose smaller")
    with pytest.raises(ValueError, match="another"):
        run_command(raises(ValueError("another")))


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
        ("plan", "0", "IDENTITIES is 0"),
        ("compare", "--processes 0", "--processes is 0"),
        ("compare", "--seeds 0 -1", "--seeds is -1"),
        ("study.__main__", "--processes -2", "--processes is -2"),
        ("benchmark.__main__", "step --steps 0", "--steps is 0"),
        ("train", "--run.seed -1", "--run.seed is -1"),
        ("train", "--augmentation.flip -1", r"augmentation flip = -1.0: a probability is in 0 … 1"),
        ("train", f"--run.steps {10**30}", "--run.steps is a number of 31 digits"),
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
