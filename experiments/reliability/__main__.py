"""Breaks a tiny training run in many ways, on this computer, and shows that nothing is lost.

python -m experiments.reliability                            every fault, with 20 kills
python -m experiments.reliability --faults kills signals     some of them
python -m experiments.reliability --kills 200 --seed 1       many kills, at other moments
python -m experiments.reliability --faults soak --minutes 120    a long run, a fault every minute

Prints a table, and writes it as JSON to --output; the runs are removed, or kept in --folder.
"""

import concurrent.futures
import dataclasses
import pathlib
import tempfile
import time
from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from arcface_jax.commands.command import (
    Count,
    Positive,
    Seed,
    make_folder,
    new_console,
    progress_bar,
    read_options,
    run_command,
    say,
    write_json,
)
from arcface_jax.counts import number_of
from arcface_jax.errors import InputError

from . import faults, storage_faults
from . import soak as soaking
from .processes import elastic, several_processes
from .runs import Lost, Tally
from .storage import NotInstalled

FAULTS: dict[str, Callable[..., Tally]] = {
    "kills": faults.kills,
    "signals": faults.signals,
    "full_disk": faults.full_disk,
    "damage": faults.damaged_checkpoints,
    "configuration": faults.other_configuration,
    "data": faults.changed_data,
    "not_finite": faults.not_finite,
    "unwritable": faults.no_place,
    "processes": several_processes,
    "elastic": elastic,
    "slow_storage": storage_faults.slow_storage,
    "failing_storage": storage_faults.failing_storage,
    "broken_uploads": storage_faults.broken_uploads,
    "full_storage": storage_faults.full_storage,
    "credentials": storage_faults.wrong_credentials,
    "two_runs": storage_faults.two_runs,
}
"""What can be done to a run, by name."""

SOAK = "soak"
"""Takes hours, and is asked for by name alone."""


@dataclasses.dataclass(frozen=True)
class ReliabilityConfig:
    """Which faults, and how often."""

    faults: tuple[str, ...] = tuple(FAULTS)
    """Names among kills, signals, full_disk, damage, configuration, data, not_finite,
    unwritable, processes, elastic; in a bucket of a server on this machine, which moto and s3fs
    make: slow_storage, failing_storage, broken_uploads, full_storage, credentials, two_runs. Not
    among the default ones: soak, a long run with a fault every minute.
    """
    kills: Count = 20
    """How often kill -9 strikes."""
    minutes: Positive = 120.0
    """How long soak lasts at least."""
    seed: Seed = 0
    """Of the moments at which it does, and of what soak does."""
    at_once: Count = 2
    """Faults committed at the same time; each keeps about one core busy."""
    folder: pathlib.Path | None = None
    """Where the runs are kept; by default they are removed again."""
    output: pathlib.Path | None = None
    """File for the table as JSON."""


def strike(name: str, place: pathlib.Path, config: ReliabilityConfig, console: Console) -> Tally:
    """Commits one fault on runs in a folder; the tally tells what does not come back."""
    begin, commit = time.monotonic(), (FAULTS | {SOAK: soaking.soak})[name]
    settings: dict[str, dict[str, float]] = {
        "kills": {"times": config.kills, "seed": config.seed},
        SOAK: {"minutes": config.minutes, "seed": config.seed},
    }
    try:
        tally = commit(place, **settings.get(name, {}))
    except NotInstalled as error:
        tally = Tally(name, f"left out: {error}")
    except Lost as error:
        tally = Tally(name, (commit.__doc__ or "").strip(), lost=[str(error)])
    tally.seconds = round(time.monotonic() - begin, 1)
    lost = len(tally.lost) or "nothing"
    say(
        console,
        f"{tally.fault}: {number_of(tally.times, 'time')}, {lost} lost, {tally.seconds:.0f} s",
    )
    return tally


def print_tallies(console: Console, tallies: list[Tally]) -> None:
    """A row for each fault."""
    header = ("fault", "what was done", "times", "lost", "seconds")
    table = Table(*header, title="Faults, each on the training command")
    for tally in tallies:
        lost = "\n".join(tally.lost) or "nothing"
        style = "red" if tally.lost else None
        numbers = str(tally.times), lost, f"{tally.seconds:.0f}"
        table.add_row(tally.fault, tally.what, *numbers, style=style)
    console.print(table)


def run_reliability(config: ReliabilityConfig, console: Console) -> int:
    """Commits the faults; returns 0 if nothing was lost."""
    known = (*FAULTS, SOAK)
    unknown = [name for name in config.faults if name not in known]
    if unknown or not config.faults:
        raise InputError(
            f"faults: {', '.join(unknown) or 'none given'}; choose among {', '.join(known)}"
        )
    if config.folder is not None and config.folder.exists() and any(config.folder.iterdir()):
        raise InputError(
            f"folder {config.folder} is not empty: its runs would be of another time; choose "
            "another"
        )
    if config.output is not None:
        make_folder(config.output.parent)
    with tempfile.TemporaryDirectory() as temporary:
        place = (config.folder or pathlib.Path(temporary)).absolute()
        with (
            progress_bar(console, "Committing faults", len(config.faults)) as move,
            concurrent.futures.ThreadPoolExecutor(config.at_once) as pool,
        ):

            def strike_one(name: str) -> Tally:
                move(0, name)
                tally = strike(name, place, config, console)
                move(1)
                return tally

            tallies = list(pool.map(strike_one, config.faults))
    print_tallies(console, tallies)
    if config.output is not None:
        write_json(config.output, [dataclasses.asdict(tally) for tally in tallies])
    return int(any(tally.lost for tally in tallies))


def main() -> int:
    """Parses and runs."""
    return run_reliability(read_options(ReliabilityConfig, "reliability", __doc__), new_console())


if __name__ == "__main__":
    run_command(main)
