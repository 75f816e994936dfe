"""The cache of compiled programs: on for commands, off when asked, in nobody's way."""

import os
import pathlib
import sys

import jax
import pytest

from arcface_jax.commands import compiled
from arcface_jax.commands.compiled import cache_folder, keep_compiled
from tests.processes import run

NAMES = (
    "JAX_COMPILATION_CACHE_DIR",
    "JAX_ENABLE_COMPILATION_CACHE",
    "JAX_COMPILATION_CACHE_MAX_SIZE",
)


@pytest.fixture
def told(monkeypatch, tmp_path):
    """What JAX is told, of a user with an empty home and no settings; JAX itself is left alone."""
    found = {}
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(sys, "argv", ["command"])
    monkeypatch.setattr(compiled, "_set_in_jax", found.update)
    return found


def test_programs_are_kept_in_the_users_cache(told, tmp_path, monkeypatch):
    keep_compiled()
    assert told["jax_compilation_cache_dir"] == str(tmp_path / ".cache" / "arcface-jax")
    assert (tmp_path / ".cache" / "arcface-jax").is_dir()
    assert not list((tmp_path / ".cache" / "arcface-jax").iterdir())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    keep_compiled()
    assert told["jax_compilation_cache_dir"] == str(tmp_path / "elsewhere" / "arcface-jax")


def test_the_size_is_bounded_where_jax_can(told, monkeypatch):
    for there in (None, object()):
        told.clear()
        monkeypatch.setattr("importlib.util.find_spec", lambda _, there=there: there)
        keep_compiled()
        assert told.get("jax_compilation_cache_max_size") == (None if there is None else 4 * 2**30)


@pytest.mark.parametrize("set_to", ["/some/where", ""])
def test_a_folder_of_the_users_own_wins(told, monkeypatch, set_to):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", set_to)
    keep_compiled()
    assert told == {}
    assert cache_folder() == (pathlib.Path(set_to) if set_to else None)


@pytest.mark.parametrize("off", ["false", "0", "False"])
def test_jaxs_own_switch_turns_it_off(told, monkeypatch, off, tmp_path):
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", off)
    keep_compiled()
    assert told == {}
    assert cache_folder() is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("own", [False, True])
def test_an_option_turns_it_off(told, monkeypatch, own):
    """Also of a folder of one's own; the command does not see the option."""
    if own:
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/some/where")
    monkeypatch.setattr(sys, "argv", ["train", "--no-cache", "folder", "--", "x"])
    keep_compiled()
    assert told == {"jax_enable_compilation_cache": False}
    assert sys.argv == ["train", "folder", "--", "x"]


def test_a_folder_that_cannot_be_written_stops_nothing(told, tmp_path, monkeypatch):
    (tmp_path / ".cache").write_text("")
    keep_compiled()
    assert told == {}
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def read_only(dir):
        raise OSError("read-only")

    monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    keep_compiled()
    assert told == {}

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(pathlib.Path, "home", homeless)
    keep_compiled()
    assert told == {}
    assert cache_folder() is None


def test_jax_is_told_here_and_in_processes_to_come(monkeypatch):
    before = jax.config.jax_compilation_cache_max_size
    monkeypatch.setenv("JAX_COMPILATION_CACHE_MAX_SIZE", "-1")
    try:
        compiled._set_in_jax({"jax_compilation_cache_max_size": 12345})
        assert jax.config.jax_compilation_cache_max_size == 12345
        assert os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] == "12345"
    finally:
        jax.config.update("jax_compilation_cache_max_size", before)


PROGRAM = """
import sys
from arcface_jax.commands.command import run_command

def main():
    import jax, jax.numpy as jnp
    print(float(jax.jit(lambda x: jnp.sum(jnp.sin(x) @ x))(jnp.ones((8, 8)))))

run_command(main)
"""


@pytest.mark.slow
def test_a_damaged_entry_stops_nothing(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name not in NAMES}
    environment |= {"XDG_CACHE_HOME": str(tmp_path)}
    environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}

    def call(*arguments):
        done = run([sys.executable, "-c", PROGRAM, *arguments], env=environment)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    said = call()
    entries = list((tmp_path / "arcface-jax").glob("*-cache"))
    assert entries
    for kept in (slice(50, None), slice(0, 99), slice(0, 0)):
        for entry in entries:
            entry.write_bytes(entry.read_bytes()[kept])
        assert call() == said
    assert call("--no-cache") == said
