"""A measurement in a process of its own: what goes in, what comes out, what an error says."""

import pathlib
import textwrap

import pytest

from arcface_jax.errors import InputError
from experiments.benchmark.measured_process import measure_in_process, records_of_process

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


STREAM = """
    import sys, time
    from arcface_jax.errors import InputError
    from experiments.benchmark.measured_process import serve

    def measure(case, count):
        for number in range(count):
            yield {"number": number}
        if case == "waits":
            time.sleep(60)
        if case == "fails":
            raise InputError("no more of it")

    serve(measure)
"""


@pytest.mark.parametrize(
    ("case", "last"),
    [
        ("ends", None),
        ("waits", {"failed": "ended after 6 s"}),
        ("fails", {"failed": "no more of it"}),
    ],
)
def test_records_come_one_by_one_until_the_time_is_over(tmp_path, monkeypatch, case, last):
    (tmp_path / "streams.py").write_text(textwrap.dedent(STREAM))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    seconds = 6 if case == "waits" else 200
    found = list(records_of_process("streams", case, (3,), seconds))
    counted = [{"number": number} for number in range(3)]
    # A slow machine may not have begun by then.
    assert found == counted + [last] * (last is not None) or (case == "waits" and found == [last])
