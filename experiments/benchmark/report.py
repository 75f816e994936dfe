"""What all benchmarks share: turns, ratios of rounds; a file, a table, a picture, a former run."""

import dataclasses
import json
import math
import pathlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import tyro
from matplotlib.figure import Figure
from rich.table import Table

from arcface_jax.command_name import command
from arcface_jax.commands.command import make_folder, new_console, say, table_of
from arcface_jax.commands.machine import machine
from arcface_jax.errors import InputError, reason
from arcface_jax.figures.benchmark import ratio_bars
from arcface_jax.figures.style import save
from arcface_jax.files import write_whole
from arcface_jax.progress import Begin, Lines, unseen

Record = dict[str, Any]
FEWEST_ROUNDS = 3
"""With fewer the lowest and highest ratio of the rounds say nothing of their spread."""


@dataclasses.dataclass(frozen=True)
class Ratio:
    """How many times one quantity is another, more being better: of the rounds' own ratios, so
    that a slow moment of the machine counts for both.
    """

    median: float
    low: float
    high: float

    def worse_than(self, former: "Ratio") -> bool:
        """Whether the median falls by more than both spreads: high − median, median − low."""
        return self.high < former.low

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.low:.3g}–{self.high:.3g})"


def ratio_of_rounds(top: Sequence[float], bottom: Sequence[float]) -> Ratio:
    """top / bottom, where each has one number a round; of the rounds' own ratios."""
    if not top or len(top) != len(bottom):
        raise InputError(
            f"rounds: {len(top)} and {len(bottom)} numbers; give one or more, as many of both"
        )
    ratios = [a / b for a, b in zip(top, bottom, strict=True)]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))


def round_seconds(records: Sequence[Record]) -> list[float]:
    """One number a round of records with the seconds of several steps: their median."""
    return [statistics.median(record["seconds"]) for record in records]


def take_turns(
    cases: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    warm: bool = True,
    least: float = 0.1,
    begin: Begin = unseen,
) -> dict[str, list[float]]:
    """Seconds by name and round of pieces of work that take turns, so that what else the machine
    does slows all. With `warm` each runs once before, untimed; work that is shorter than `least`
    seconds is repeated until then. `begin` shows it.
    """
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    with begin("Measuring", len(cases) * rounds) as move:
        for name, work in cases.items() if warm else ():
            move(0, f"{name}, untimed")
            work()
        for _ in range(rounds):
            for name, work in cases.items():
                move(0, name)
                begun, elapsed, count = time.perf_counter(), 0.0, 0
                while not count or elapsed < least:
                    work()
                    count += 1
                    elapsed = time.perf_counter() - begun
                seconds[name].append(elapsed / count)
                move(1)
    return seconds


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkOptions:
    """What the options of every benchmark have, besides its own."""

    compare: Annotated[pathlib.Path | None, tyro.conf.arg(metavar="FILE")] = None
    """records.json of a former run of this benchmark, to compare the ratios with: exit status 1 if
    one is worse, which is when its highest round is below the former's lowest.
    """

    @property
    def output(self) -> pathlib.Path:
        """Folder for what is written: an option of each benchmark, with its own default."""
        raise NotImplementedError


class Report:
    """One run of a benchmark: what it runs on, what was measured, what becomes of it."""

    def __init__(
        self,
        benchmark: str,
        options: BenchmarkOptions,
        packages: Sequence[str] = (),
        device: str | None = None,
    ):
        """`device` is what was measured on, where that is not this process's."""
        self.benchmark, self.file = benchmark, options.output / "records.json"
        self.records: list[Record] = []
        self.console = new_console()
        places = ("output", "compare")
        settings = {key: value for key, value in vars(options).items() if key not in places}
        self._settings = {key: str(value) for key, value in settings.items()}
        make_folder(options.output)
        # Read now, before hours of measuring.
        self._former = None if options.compare is None else read_report(options.compare, benchmark)
        if self._former is not None:
            check_rounds(self._settings, "--rounds")
            check_rounds(self._former[0], f"{options.compare}: rounds")
        self._machine, self._ratios = machine(packages), dict[str, Ratio]()
        if device is not None:
            self._machine["device"] = device
        self.say(", ".join(f"{key} {value}" for key, value in self._machine.items()))

    def say(self, line: str) -> None:
        """Prints a line as it is."""
        say(self.console, line)

    def work(self, title: str, total: int | None = None) -> Lines:
        """How far the measuring is: lines on a terminal too, for drawing a bar would take time from
        what is measured.
        """
        return Lines(self.say, title, total)

    def draw(self, figure: Figure, name: str, formats: Sequence[str] = ("png",)) -> None:
        """Saves a picture beside the records, and says where."""
        for path in save(figure, self.file.with_name(name), formats):
            self.say(str(path))

    def add(self, *records: Record) -> None:
        """Keeps records, in the file too: a run that is stopped has measured something."""
        self.records += records
        self._write()

    def finish(
        self, ratios: Mapping[str, Ratio], label: str = "times as fast", *, bars: bool = True
    ) -> int:
        """Writes, prints and with `bars` draws the ratios, by names that stay the same from run to
        run, and compares them with the former run's: 1 if one is worse.
        """
        self._ratios = dict(ratios)
        self._write()
        if ratios:
            title = f"{label}: median of the rounds' ratios (lowest–highest)"
            rows = [(name, str(ratio)) for name, ratio in ratios.items()]
            self.console.print(ratio_table(("ratio", ""), rows, title))
        if ratios and bars:
            points = {name: (ratio.low, ratio.median, ratio.high) for name, ratio in ratios.items()}
            self.draw(ratio_bars(points, label), "ratios", ("png", "svg"))
        self.say(str(self.file))
        if self._former is None:
            return 0
        former_about, former_ratios = self._former
        about = self._machine | self._settings
        for key in sorted(former_about.keys() | about.keys()):
            old, new = former_about.get(key, "none"), about.get(key, "none")
            if old != new:
                self.say(f"another {key}: {old} then, {new} now")
        table, worse = comparison(former_ratios, ratios)
        self.console.print(table)
        return int(worse)

    def _write(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        ratios = {name: dataclasses.asdict(ratio) for name, ratio in self._ratios.items()}
        about = {"benchmark": self.benchmark, "machine": self._machine}
        content = about | {"settings": self._settings, "records": self.records, "ratios": ratios}
        write_whole(self.file, json.dumps(content, indent=1, allow_nan=False) + "\n")


def check_rounds(settings: Mapping[str, str], what: str) -> None:
    """Refuses to compare ratios whose spread is not known."""
    rounds = int(settings.get("rounds", FEWEST_ROUNDS))
    if rounds < FEWEST_ROUNDS:
        raise InputError(
            f"{what} {rounds}: too few to tell a change from noise; --compare needs "
            f"{FEWEST_ROUNDS} or more"
        )


def read_report(path: pathlib.Path, benchmark: str) -> tuple[dict[str, str], dict[str, Ratio]]:
    """(machine and settings, ratios) of a file that a `Report` of this benchmark wrote."""
    advice = f"give records.json of a former `{command(f'benchmark {benchmark}')}`"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = content["benchmark"]
        about = {
            str(key): str(value)
            for part in ("machine", "settings")
            for key, value in content[part].items()
        }
        ratios = {
            str(name): Ratio(*(float(numbers[key]) for key in ("median", "low", "high")))
            for name, numbers in content["ratios"].items()
        }
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; {advice}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{path}: not what a benchmark writes ({reason(error)}); {advice}"
        ) from error
    if not all(
        math.isfinite(number) for ratio in ratios.values() for number in dataclasses.astuple(ratio)
    ):
        raise InputError(f"{path}: a ratio is not finite; {advice}")
    if found != benchmark:
        raise InputError(f"{path}: of the benchmark {found!r}; {advice}")
    return about, ratios


def comparison(former: Mapping[str, Ratio], now: Mapping[str, Ratio]) -> tuple[Table, bool]:
    """(old and new of every ratio, whether any is worse); one missing on a side is no fault."""
    rows, any_worse = [], False
    for name in [*now, *(name for name in former if name not in now)]:
        old, new = former.get(name), now.get(name)
        if old is None or new is None:
            verdict = "only now" if old is None else "only then"
        elif new.worse_than(old):
            verdict, any_worse = "worse", True
        else:
            verdict = "better" if old.worse_than(new) else "no difference"
        rows.append((name, *("–" if one is None else str(one) for one in (old, new)), verdict))
    header = ("ratio", "then", "now", "")
    return ratio_table(header, rows, "Compared with the former run"), any_worse


def ratio_table(header: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> Table:
    """Rows of a name, which may be folded, and of what may not."""
    table = table_of(header, rows, title=title)
    table.columns[0].overflow = "fold"
    for column in table.columns[1:]:
        column.no_wrap = True
    return table


def group(records: Sequence[Record], *keys: str) -> dict[Any, list[Record]]:
    """Records by their value of a key, or the tuple of their values of several, in order."""
    groups: dict[Any, list[Record]] = {}
    for record in records:
        values = tuple(record[key] for key in keys)
        groups.setdefault(values if len(keys) > 1 else values[0], []).append(record)
    return groups


def rates(values: Sequence[float], form: str = ".1f") -> list[str]:
    """Median, lowest and highest, as text."""
    return [format(v, form) for v in (statistics.median(values), min(values), max(values))]
