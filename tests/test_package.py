"""The source distribution and the wheel hold what they should, and work where the repository is
not.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.slow


def python(*arguments, cwd, **environment):
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | environment,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(source distribution, the wheel that is built out of it)."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
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
    assert names == tracked("arcface_jax", "experiments") | {"arcface_jax/py.typed"}
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


def test_the_wheel_works_outside_the_repository(built, tmp_path):
    with zipfile.ZipFile(built[1]) as wheel:
        wheel.extractall(tmp_path / "site")
    status, said = python(
        *("-m", "experiments.figures", "target_logits", "--folder", tmp_path / "pictures"),
        cwd=tmp_path,
        PYTHONPATH=str(tmp_path / "site"),
    )
    assert status == 0, said
    assert (tmp_path / "pictures" / "target_logits.png").stat().st_size > 10_000
