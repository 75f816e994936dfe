"""A run of several processes: joining the others, and finding out that one is gone."""

import os
import sys
from typing import NoReturn

import jax

from arcface_jax.errors import InputError, reason

ADDRESS, COUNT, NUMBER = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
"""Environment variables for machines that JAX does not know: host:port of process 0, how many there
are, which one this is. JAX itself reads only the first.
"""

HEARTBEAT_SECONDS = 30
"""A process that was silent for so long counts as dead; all others end then, instead of waiting
for it.
"""


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
    try:
        jax.distributed.initialize(
            num_processes=count,
            process_id=number,
            coordinator_bind_address=bind,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (ValueError, RuntimeError) as error:
        raise InputError(
            "run.distributed: the other processes cannot be joined "
            f"({reason(error)}); start each under SLURM, a TPU pod or Open MPI, or "
            f"with {ADDRESS}, {COUNT} and {NUMBER} set"
        ) from error


def _whole_number(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdecimal():
        raise InputError(f"run.distributed: {name} is {text!r}; give a whole number")
    return int(text)


def is_loss_of_others(error: BaseException | None) -> bool:
    """Whether an error says that this process cannot go on with the others: most likely, one of
    them died.
    """
    return isinstance(error, jax.errors.JaxRuntimeError) and jax.process_count() > 1


def leave(error: BaseException) -> NoReturn:
    """Ends this process with status 1 and one line, without the farewell that waits for all the
    others.
    """
    sys.stdout.flush()
    print(
        f"error: this process cannot go on with the others ({str(error).splitlines()[0][:160]}); "
        "where all have ended, give the same command again: it goes on from the newest checkpoint",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)
