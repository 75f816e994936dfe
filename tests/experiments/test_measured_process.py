"""A measurement in a process of its own: what goes in, what comes out, what an error says."""

import pathlib
import textwrap

import pytest

from arcface_jax.errors import InputError
from experiments.benchmark.measured_process import measure_in_process

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_a_record_or_one_line_comes_back(tmp_path, monkeypatch):
    program = """
        import os
        from arcface_jax.errors import InputError
        from experiments.benchmark.measured_process import serve

        def measure(case, first, second):
            if first > second:
                raise InputError(f"{first} is too much")
            kept = {name.lower(): os.environ[name] for name in ("SET", "KEPT")}
            return {"case": case, "sum": first + second, **kept}

        serve(measure)
    """
    (tmp_path / "adds.py").write_text(textwrap.dedent(program))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    monkeypatch.setenv("SET", "before")
    monkeypatch.setenv("KEPT", "as it was")
    found = measure_in_process("adds", "a case", (1, 2), "one and two", {"SET": "anew"})
    assert found == {"case": "a case", "sum": 3, "set": "anew", "kept": "as it was"}
    with pytest.raises(InputError, match=r"^measuring two and one failed: 2 is too much$"):
        measure_in_process("adds", "a case", (2, 1), "two and one")
