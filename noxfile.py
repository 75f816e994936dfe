"""Checks in environments of their own: `nox` runs tests, lint and types; `nox -l` lists all.

nox -s "tests-3.11"                          the lowest versions that requirements.txt allows
nox -s "tests-3.12" -- tests/test_margins.py
nox -s docs -- -D nb_execution_mode=force    the notebooks with their output
"""

import pathlib

import nox

LOWEST = "3.11"
"""The Python that is tested with the lowest versions of the dependencies; the others have the
newest.
"""

nox.options.sessions = ["tests", "lint", "types"]
nox.options.error_on_missing_interpreters = False


def lowest_versions() -> str:
    """Constraints: each `name>=version` of the dependencies at run time as `name==version`."""
    lines = []
    for file in ("requirements.txt", "requirements-parquet.txt"):
        lines += pathlib.Path(file).read_text(encoding="utf-8").splitlines()
    return "".join(line.replace(">=", "==") + "\n" for line in lines if ">=" in line)


@nox.session(python=[LOWEST, "3.12", "3.13"])
def tests(session: nox.Session) -> None:
    """The default tests; arguments go to pytest."""
    constraints = []
    if session.python == LOWEST:
        file = pathlib.Path(session.create_tmp()) / "lowest.txt"
        file.write_text(lowest_versions(), encoding="utf-8")
        constraints = ["--constraint", str(file)]
    session.install("-r", "requirements-dev.txt", *constraints)
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session(python=LOWEST)
def lint(session: nox.Session) -> None:
    """Rules and format."""
    session.install("ruff>=0.14")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session(python=LOWEST)
def types(session: nox.Session) -> None:
    """The package and the commands."""
    session.install("-r", "requirements-dev.txt")
    session.run("mypy")


@nox.session(python=LOWEST)
def docs(session: nox.Session) -> None:
    """The site, in build/docs; every warning is an error. Arguments go to Sphinx."""
    session.install(
        "-r", "requirements.txt", "-r", "requirements-parquet.txt", "-r", "requirements-docs.txt"
    )
    session.run(
        "python",
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        *session.posargs,
        "docs",
        "build/docs",
        env={"JAX_PLATFORMS": "cpu"},
    )


@nox.session(python=LOWEST)
def audit(session: nox.Session) -> None:
    """Known vulnerabilities of what is installed; asks PyPI's advisory service."""
    session.install("-r", "requirements.txt", "pip-audit>=2.9")
    session.run("pip-audit", "--strict", "--progress-spinner", "off", *session.posargs)
