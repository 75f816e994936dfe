"""The source distribution and the wheel hold what they should, and work where the repository is
not.
"""

import json
import os
import pathlib
import re
import shutil
import sys
import tarfile
import tomllib
import venv
import zipfile

import pytest

from tests import processes

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["tool"]["setuptools"]["dynamic"]["optional-dependencies"]


def test_every_file_of_optional_requirements_is_an_extra():
    """Of what a user can want: developers have a checkout."""
    files = {file.name for file in ROOT.glob("requirements-*.txt")} - {"requirements-dev.txt"}
    assert {name: extra["file"] for name, extra in EXTRAS.items()} == {
        re.fullmatch(r"requirements-(\w+)\.txt", file)[1]: [file] for file in files
    }
    for file in files:
        for line in (ROOT / file).read_text().splitlines():
            assert re.fullmatch(r"[a-z0-9-]+>=[0-9.]+", line), f"{file}: {line}"


def test_extras_that_are_told_of_exist():
    """In messages, by `command_name.install`; in documents, as one types them."""
    files = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    files += [*(ROOT / "arcface_jax").rglob("*.py"), *(ROOT / "experiments").rglob("*.py")]
    told = set()
    for file in files:
        text = file.read_text(encoding="utf-8")
        for names in re.findall(r"arcface-jax\[([a-z,]+)\]", text):
            told |= set(names.split(","))
        if file.suffix == ".py":
            told |= set(re.findall(r"\binstall\([\"'](\w+)[\"']\)", text))
    assert told <= set(EXTRAS)
    assert told >= {"onnx", "parquet", "detection", "demo", "faiss"}


def test_the_pythons_that_are_named_are_those_that_are_tested():
    named = [
        line.rpartition(" ")[2]
        for line in PROJECT["project"]["classifiers"]
        if line.startswith("Programming Language :: Python :: 3.")
    ]
    sessions = (ROOT / "noxfile.py").read_text()
    tested = re.findall(r"\"(3\.\d+)\"", sessions)
    assert named == sorted(set(tested), key=lambda version: int(version[2:]))
    assert PROJECT["project"]["requires-python"] == f">={named[0]}"
    page = (ROOT / "docs" / "faq.md").read_text(encoding="utf-8")
    assert f"{named[0]} to {named[-1]}" in page
    # The lowest versions of these are the last that run on the lowest Python.
    lowest = dict(line.split(">=") for line in (ROOT / "requirements.txt").read_text().split())
    assert f"JAX {lowest['jax']} and Flax {lowest['flax']} are also the lowest" in page


def python(*arguments, cwd, **environment):
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = processes.run([sys.executable, *arguments], cwd=cwd, env=kept | environment)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(source distribution, the wheel that is built out of it)."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    listed = processes.run(["git", "ls-files"], cwd=ROOT)
    if listed.returncode:
        pytest.skip("this is no checkout")
    for name in listed.stdout.splitlines():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    status, said = python("-m", "build", "--outdir", out, cwd=source)
    if status and "No matching distribution found for setuptools" in said:
        pytest.skip("setuptools cannot be fetched here")
    assert status == 0, said
    (archive,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return archive, wheel


def tracked(*folders):
    return {
        str(path.relative_to(ROOT)) for folder in folders for path in (ROOT / folder).rglob("*.py")
    }


@pytest.mark.slow
def test_the_source_distribution_is_whole(built):
    with tarfile.open(built[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert tracked("arcface_jax", "experiments", "tests", "notebooks") <= names
    assert {file.name for file in ROOT.glob("requirements*.txt")} <= names
    assert {
        "README.md",
        "LICENSE",
        "CITATION.cff",
        "docs/figures/layer.png",
        "tests/golden/margins.json",
    } <= names


@pytest.mark.slow
def test_the_wheel_has_the_package_and_the_commands_alone(built):
    with zipfile.ZipFile(built[1]) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        (metadata,) = (
            wheel.read(name).decode() for name in wheel.namelist() if name.endswith("/METADATA")
        )
    commands = {f"arcface_jax/{file}" for file in tracked("experiments")}
    data = {"arcface_jax/py.typed", "arcface_jax/commands/pages.json"}
    assert names == tracked("arcface_jax") | commands | data
    assert set(EXTRAS) == set(re.findall(r"(?m)^Provides-Extra: (\w+)$", metadata))
    needed = [
        line.partition(">=")[0]
        for line in (ROOT / "requirements.txt").read_text().split()
        if ">=" in line
    ]
    assert {
        line.partition(">=")[0]
        for line in metadata.splitlines()
        if line.startswith("Requires-Dist: ")
    } >= {f"Requires-Dist: {name}" for name in needed}


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """A folder with the wheel, and the console script's function as a program."""
    site = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(built[1]) as wheel:
        wheel.extractall(site)
    (entry_points,) = site.glob("*.dist-info/entry_points.txt")
    name, place = entry_points.read_text().split("\n")[1].split(" = ")
    module, function = place.split(":")
    (site / name).write_text(f"from {module} import {function}\n{function}()\n")
    return site


HELP_OF_ALL = """
import contextlib, io, json, sys
from arcface_jax.commands.main import call
for name in sys.argv[1:]:
    sys.argv = ["arcface-jax", name, "--help"]
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            status = call() or 0
    except SystemExit as stop:
        status = stop.code
    print(json.dumps([name, status, said.getvalue()]))
"""


@pytest.mark.slow
def test_every_command_of_the_wheel_explains_itself(installed, tmp_path):
    """In one process, for each would import all anew."""
    names = [file.stem for file in (installed / "arcface_jax" / "experiments").glob("[!_]*.py")]
    assert {"train", "evaluate"} < set(names)
    names += ["benchmark", "study", "reliability"]
    (tmp_path / "arcface-jax").write_text(HELP_OF_ALL)
    status, said = python(tmp_path / "arcface-jax", *names, cwd=tmp_path, PYTHONPATH=str(installed))
    assert status == 0, said
    found = [json.loads(line) for line in said.splitlines()]
    assert [name for name, _, _ in found] == names
    for name, status, text in found:
        assert status == 0, text
        assert "python -m experiments" not in text
        assert f"arcface-jax {name}" in text


@pytest.mark.slow
def test_the_wheel_works_outside_the_repository(installed, tmp_path):
    for arguments, written in (
        (("figures", "target_logits", "--folder", "pictures"), "pictures/target_logits.png"),
        (
            ("benchmark", "head", "--heads=chunked", "--classes=50", "--rounds=1", "--output=m"),
            "m/records.json",
        ),
    ):
        status, said = python(
            *(installed / "arcface-jax", *arguments),
            cwd=tmp_path,
            PYTHONPATH=str(installed),
            JAX_PLATFORMS="cpu",
        )
        assert status == 0, said
        assert (tmp_path / written).stat().st_size > 100


USER = """
import jax
import numpy as np
from arcface_jax import arcface, margin_softmax_loss
from arcface_jax.evaluation.verification import verify_pairs
from arcface_jax.losses import ArcFace

def train(embeddings: jax.Array, weights: jax.Array, labels: jax.Array) -> jax.Array:
    loss: ArcFace = ArcFace(margin=0.4)
    unit: np.ndarray = np.eye(4)
    accuracy: float = verify_pairs(unit, unit, np.ones(4, bool)).accuracy
    print(loss.scale + accuracy)
    return margin_softmax_loss(embeddings, weights, labels, psi=arcface(0.5))

margin: str = ArcFace().margin
arcface("wide", past_pi=3)
"""


CHECKERS = {
    "mypy": ("--cache-dir", "cache", "--python-executable"),
    "basedpyright": ("--level", "error", "--pythonpath"),
}
"""The options of each; the last takes an interpreter."""


@pytest.mark.slow
@pytest.mark.parametrize("checker", CHECKERS)
def test_a_users_type_checker_sees_the_types(checker, built, tmp_path):
    """The wheel in an environment of its own, beside the libraries of this one: what is right
    passes, and what is wrong is found, which without py.typed it would not be. basedpyright is
    pyright with all that it needs in one package.
    """
    pytest.importorskip(checker)
    venv.create(tmp_path / "venv", symlinks=True)
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    with zipfile.ZipFile(built[1]) as wheel:
        wheel.extractall(site)
    libraries = [path for path in sys.path if path.endswith("site-packages")]
    (site / "libraries.pth").write_text("\n".join(libraries))
    (tmp_path / "user.py").write_text(USER)
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "standard"}')
    interpreter = tmp_path / "venv" / "bin" / "python"
    status, said = python("-m", checker, *CHECKERS[checker], interpreter, "user.py", cwd=tmp_path)
    found = re.findall(r"user\.py:(\d+)\S* (?:- )?error: (.*)", said)
    assert status == 1, said
    assert sorted({int(line) for line, _ in found}) == [15, 16], said
    assert "float" in found[0][1]
    assert "str" in found[0][1]
