"""The source distribution and the wheel hold what they should, and work where the repository is
not.
"""

import json
import os
import pathlib
import shutil
import sys
import tarfile
import zipfile

import pytest

from tests import processes

ROOT = pathlib.Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.slow


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


def test_the_wheel_has_the_package_and_the_commands_alone(built):
    with zipfile.ZipFile(built[1]) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        (metadata,) = (
            wheel.read(name).decode() for name in wheel.namelist() if name.endswith("/METADATA")
        )
    commands = {f"arcface_jax/{file}" for file in tracked("experiments")}
    assert names == tracked("arcface_jax") | commands | {"arcface_jax/py.typed"}
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
