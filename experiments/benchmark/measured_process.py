"""A measurement in a process of its own, with nothing of another in its memory: both ends."""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from arcface_jax.commands.command import run_command
from arcface_jax.errors import InputError

Record = dict[str, Any]


def measure_in_process(
    module: str,
    case: str,
    numbers: Sequence[int],
    what: str,
    environment: Mapping[str, str] | None = None,
) -> Record:
    """What `python -m MODULE CASE NUMBERS`, a module that ends in `serve`, measures of `what`."""
    command = [sys.executable, "-m", module, case, *map(str, numbers)]
    changed = {**os.environ, **(environment or {})}
    result = subprocess.run(command, env=changed, capture_output=True, text=True, check=False)
    if result.returncode:
        message = (result.stderr.strip().splitlines() or [f"status {result.returncode}"])[-1]
        raise InputError(f"measuring {what} failed: {message.removeprefix('error: ')}")
    record: Record = json.loads(result.stdout.splitlines()[-1])
    return record


def records_of_process(
    module: str, case: str, numbers: Sequence[int], seconds: float
) -> Iterator[Record]:
    """The records of such a module as it measures them; it is ended after so many seconds.

    The last record has "failed", the reason, where it was ended or failed.
    """
    command = [sys.executable, "-m", module, case, *map(str, numbers)]
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        ended = threading.Event()

        def end() -> None:
            ended.set()
            process.kill()

        timer = threading.Timer(seconds, end)
        timer.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("{") and line.endswith("\n"):  # not what was cut off
                    yield json.loads(line)
            status = process.wait()
        finally:
            timer.cancel()
            process.kill()
        if ended.is_set():
            yield {"failed": f"ended after {seconds:.0f} s"}
        elif status:
            errors.seek(0)
            message = (errors.read().strip().splitlines() or [f"status {status}"])[-1]
            yield {"failed": message.removeprefix("error: ")[:200]}


def serve(measure: Callable[..., Record | Iterator[Record]]) -> None:
    """The whole of such a module's program: reads the case and its numbers, prints the record, or
    each of several as it comes.
    """

    def main() -> None:
        case, *numbers = sys.argv[1:]
        found = measure(case, *map(int, numbers))
        for record in [found] if isinstance(found, dict) else found:
            print(json.dumps(record), flush=True)

    run_command(main)
