"""A run of several processes: joining the others, and finding out that one is gone."""

import ctypes
import faulthandler
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from typing import NoReturn

import jax

from arcface_jax.errors import InputError, reason
from arcface_jax.runs.stopping import Stopped

ADDRESS, COUNT, NUMBER = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
"""Environment variables for machines that JAX does not know: host:port of process 0, how many there
are, which one this is. JAX itself reads only the first.
"""

JOIN_SECONDS = 300
"""All must have come within so long."""

HEARTBEAT_SECONDS = 30
"""A process that was silent for so long counts as dead; all others end then, instead of waiting
for it.
"""

_FAREWELL_SECONDS = 3600
"""The others wait for the first one as long, which draws and writes at the end."""
_LINGERS = 5.0
_TRAVELS = re.compile(r"\b(Gloo|NCCL|coordination service)\b")  # JAX may raise a ValueError of them
_joined: list[bool] = []
_AGAIN = (
    "; where all have ended, give the same command again: it goes on from the newest checkpoint"
)


def join_processes() -> None:
    """Joins the other processes of this run: those of the three variables above, else of SLURM, a
    TPU pod or Open MPI. Does nothing where they are joined already.

    Raises:
      InputError: the variables are incomplete or wrong, there is no sign of other processes, or
        they did not come.
    """
    if jax.distributed.is_initialized():
        return
    given = {name: os.environ[name] for name in (ADDRESS, COUNT, NUMBER) if name in os.environ}
    count, number = (_whole_number(name, given.get(name)) for name in (COUNT, NUMBER))
    if (count is None) != (number is None) or (count is not None and ADDRESS not in given):
        missing = ", ".join(name for name in (ADDRESS, COUNT, NUMBER) if name not in given)
        raise InputError(
            f"run.distributed: {', '.join(given)} set, but not {missing}; set all three in every "
            "process"
        )
    if count is not None and number is not None and not 0 <= number < count:
        raise InputError(
            f"run.distributed: {NUMBER} is {number}; with {COUNT} = {count} give 0 to {count - 1}"
        )
    host = given.get(ADDRESS, "").rpartition(":")[0]
    # By default the coordinator listens on every network that the machine has.
    bind = given[ADDRESS] if host in ("localhost", "127.0.0.1") else None
    _end_with_a_line()
    try:
        jax.distributed.initialize(
            num_processes=count,
            process_id=number,
            coordinator_bind_address=bind,
            initialization_timeout=JOIN_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=_FAREWELL_SECONDS,
        )
    except (ValueError, RuntimeError) as error:
        raise InputError(
            "run.distributed: the other processes cannot be joined "
            f"({reason(error)}); start each under SLURM, a TPU pod or Open MPI, or "
            f"with {ADDRESS}, {COUNT} and {NUMBER} set"
        ) from error
    _joined.append(True)


def _whole_number(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdecimal():
        raise InputError(f"run.distributed: {name} is {text!r}; give a whole number")
    return int(text)


def is_over(error: BaseException | None) -> bool:
    """Whether this process ends while the others may wait for it, or are gone: it waits for none of
    them then.
    """
    return error is not None and not isinstance(error, Stopped) and jax.process_count() > 1


def chain_of(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and those that it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def is_of_devices(error: BaseException) -> bool:
    """Whether an error is of devices or of what travels between them, and not of a file."""
    return isinstance(error, jax.errors.JaxRuntimeError) or bool(_TRAVELS.search(str(error)))


def tell_of_loss(error: BaseException) -> None:
    """Prints the line for an error of this process that most likely tells of another's end."""
    first = (str(error).splitlines() or [type(error).__name__])[0][:160]
    print(f"error: this process cannot go on with the others ({first}){_AGAIN}", file=sys.stderr)


def leave(status: int) -> NoReturn:
    """Ends this process at once, without the farewell that waits for all the others.

    The first one, with which the others end, stays for some seconds: they may have met the same
    error, and say so.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if jax.process_index() == 0:
        time.sleep(_LINGERS)
    os._exit(status)


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _aborted(number: int) -> None:
    """A signal handler: one line, and status 1."""
    if faulthandler.is_enabled():
        faulthandler.dump_traceback()
    if _joined:
        said = (
            f"this process cannot go on with the others (one ended, or was silent for long){_AGAIN}"
        )
    else:
        said = (
            f"run.distributed: the other processes did not all come within {JOIN_SECONDS} s; start "
            "all of them, and look at what those that did not come have said"
        )
    os.write(2, f"error: {said}\n".encode())
    os._exit(1)


def _end_with_a_line() -> None:
    """Takes the place of the abort, in which JAX ends a process whose others are gone."""
    if hasattr(ctypes, "pythonapi") and os.name == "posix":
        ctypes.CDLL(None).signal(int(signal.SIGABRT), _aborted)
