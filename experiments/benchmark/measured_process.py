"""A measurement in a process of its own, with nothing of another in its memory: both ends."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
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


def serve(measure: Callable[..., Record]) -> None:
    """The whole of such a module's program: reads the case and its numbers, prints the record."""

    def main() -> None:
        case, *numbers = sys.argv[1:]
        print(json.dumps(measure(case, *map(int, numbers))))

    run_command(main)
