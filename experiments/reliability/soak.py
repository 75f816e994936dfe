"""A long run with a fault every minute; which one, and when, a seed decides."""

import concurrent.futures
import json
import pathlib
import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable

from .faults import DAMAGES, STATEFUL
from .runs import PATIENCE, Child, Ended, Lost, Run, Tally, run_differences

LOG_FILE = "soak.jsonl"
"""Beside the runs: a line for each fault, with the second and the step at which it struck."""

_OPTIONS = STATEFUL | {"run.checkpoint-every": "20", "run.log-every": "20", "run.keep": "3"}
_PROBED = (100, 300)  # steps between which the speed is measured
_SHARE_OF_STEPS = 0.7  # the rest of the time goes to starting again


def _kill(run: Run, child: Child, rng: random.Random) -> bool:
    child.kill()
    return True


def _kill_twice(run: Run, child: Child, rng: random.Random) -> bool:
    child.kill()
    again = run.start()
    time.sleep(rng.uniform(0.0, 8.0))
    again.kill()
    return True


def _terminate(run: Run, child: Child, rng: random.Random) -> bool:
    child.send(signal.SIGTERM)
    return _ended(child.wait(), 143)


def _interrupt(run: Run, child: Child, rng: random.Random) -> bool:
    child.send(signal.SIGINT)
    return _ended(child.wait(), 130)


def _freeze(run: Run, child: Child, rng: random.Random) -> bool:
    child.send(signal.SIGSTOP)
    time.sleep(rng.uniform(1.0, 10.0))
    child.send(signal.SIGCONT)
    return False


def _fill_disk(run: Run, child: Child, rng: random.Random) -> bool:
    resource.prlimit(child.process.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    return _ended(child.wait(), 2)


def _damage(run: Run, child: Child, rng: random.Random) -> bool:
    child.kill()
    newest = run.checkpoints / str(run.newest())
    rng.choice(DAMAGES)(newest)
    return True


def _start_twice(run: Run, child: Child, rng: random.Random) -> bool:
    _ended(run.to_the_end(), 2)
    return False


def _configure_otherwise(run: Run, child: Child, rng: random.Random) -> bool:
    _terminate(run, child, rng)
    return _ended(run.another(run.folder.name, loss__margin="0.3").to_the_end(), 2)


KINDS: dict[str, Callable[[Run, Child, random.Random], bool]] = {
    "kill": _kill,
    "kill twice": _kill_twice,
    "SIGTERM": _terminate,
    "SIGINT": _interrupt,
    "frozen": _freeze,
    "full disk": _fill_disk,
    "damaged checkpoint": _damage,
    "a second run": _start_twice,
    "other configuration": _configure_otherwise,
}
"""What strikes a run that has at least two checkpoints; whether that ends it."""


def _ended(ended: Ended, status: int) -> bool:
    """True; raises `Lost` where it ended with another status."""
    if ended.status != status:
        raise Lost(f"ended with {ended.status}, expected {status}: … {ended.said[-400:]}")
    return True


def soak(place: pathlib.Path, minutes: float = 120.0, seed: int = 0, every: float = 60.0) -> Tally:
    """A run of hours, struck every minute by a fault of any kind, beside one that is left alone."""
    tally = Tally("soak", "")
    steps = max(_PROBED[1], round(_speed(place) * 60.0 * minutes * _SHARE_OF_STEPS))
    calm = Run(place / "soak-calm", _OPTIONS | {"run.steps": str(steps)})
    run, rng, begin = calm.another("soaked"), random.Random(seed), time.monotonic()
    struck: dict[str, int] = {}
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        beside = pool.submit(lambda: calm.start().wait(PATIENCE + 120.0 * minutes))
        child = run.start()
        while not _ends(run, child, every):
            kind = rng.choice(list(KINDS))
            line = {"second": round(time.monotonic() - begin), "step": run.newest(), "fault": kind}
            with (place / LOG_FILE).open("a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")
            struck[kind] = struck.get(kind, 0) + 1
            if KINDS[kind](run, child, rng):
                child = run.start()
        tally.expect_end(beside.result(), 0)
    tally.times = sum(struck.values())
    hours = (time.monotonic() - begin) / 3600.0
    kinds = ", ".join(f"{count} × {kind}" for kind, count in sorted(struck.items()))
    tally.what = f"{steps:,} steps in {hours:.1f} hours: {kinds}"
    tally.lost += run_differences(run, calm)
    return tally


def _speed(place: pathlib.Path) -> float:
    """Steps a second of a run by itself."""
    probe = Run(place / "soak-probe", _OPTIONS | {"run.steps": "1000000"})
    child, times = probe.start(), []
    try:
        for step in _PROBED:
            if not child.wait_until(lambda: probe.newest() >= step):  # noqa: B023 - now
                raise Lost(f"the probe ended by itself: … {child.said()[-400:]}")
            times.append(time.monotonic())
    finally:
        child.kill()
    return (_PROBED[1] - _PROBED[0]) / (times[1] - times[0])


def _ends(run: Run, child: Child, seconds: float) -> bool:
    """Whether it ends in this time; what comes after has at least two checkpoints to strike."""
    until = time.monotonic() + seconds
    while time.monotonic() < until or run.newest() < 40:
        try:
            status = child.process.wait(1.0)
        except subprocess.TimeoutExpired:
            continue
        if status or not run.is_finished():
            raise Lost(f"ended with {status} by itself: … {child.wait().said[-400:]}")
        return True
    return False
