"""Runs of several cases, each in one of a few processes with one thread of its own."""

import concurrent.futures
import concurrent.futures.process
import contextlib
import ctypes
import dataclasses
import itertools
import json
import multiprocessing
import os
import pathlib
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from arcface_jax.errors import InputError
from arcface_jax.progress import Begin, unseen
from arcface_jax.runs.run_folder import CONFIG_FILE, RESULTS_FILE
from arcface_jax.runs.stopping import Stopped
from arcface_jax.training.config_file import differences, read_config

from .run import Case, run_case

_ONE_THREAD = "--xla_cpu_multi_thread_eigen=false"
"""XLA's flag for a process that leaves the other cores to others."""

_PR_SET_PDEATHSIG = 1

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Done:
    """A run that ended: its results as `results.json` has them, or why it failed."""

    name: str
    seed: int
    results: dict[str, Any] | None
    error: str | None = None


def completed(case: Case, root: pathlib.Path, seed: int) -> dict[str, Any] | None:
    """The results of a run, if it is complete and of the same configuration."""
    path = case.folder(root, seed)
    if not (path / RESULTS_FILE).exists():
        return None
    changes = differences(case.seeded(root, seed), read_config(path / CONFIG_FILE))
    if changes:
        raise InputError(
            f"folder {path} holds a run of another configuration ({'; '.join(changes)}); choose "
            "another --folder"
        )
    results: dict[str, Any] = json.loads((path / RESULTS_FILE).read_text())
    return results


def completed_runs(case: Case, root: pathlib.Path) -> dict[int, dict[str, Any]]:
    """The results of the complete runs of a case, by seed."""
    found = {seed: completed(case, root, seed) for seed in case.seeds}
    return {seed: results for seed, results in found.items() if results is not None}


def merge(cases: Sequence[Case]) -> list[Case]:
    """Cases of one name become one, with the seeds of all."""
    merged: dict[str, Case] = {}
    for case in cases:
        known = merged.setdefault(case.name, case)
        first, second = (dataclasses.replace(c, seeds=(), watched=None) for c in (known, case))
        if first != second:
            raise InputError(
                f"two cases are called {case.name!r}; give each setting a name of its own"
            )
        seeds = tuple(dict.fromkeys(known.seeds + case.seeds))
        watched = case.watched if known.watched is None else known.watched
        merged[case.name] = dataclasses.replace(known, seeds=seeds, watched=watched)
    return list(merged.values())


def missing(cases: Sequence[Case], root: pathlib.Path) -> list[Case]:
    """What is yet to run: the cases with the seeds whose runs are not complete."""
    left = [
        (case, [seed for seed in case.seeds if completed(case, root, seed) is None])
        for case in cases
    ]
    return [dataclasses.replace(case, seeds=tuple(seeds)) for case, seeds in left if seeds]


def run_all(
    cases: Sequence[Case], root: pathlib.Path, processes: int, say: Say, begin: Begin = unseen
) -> list[Done]:
    """Runs what is missing of merged cases, in this process or several, the seeds of a case one
    after the other: the runs that ended now. Cases that train on what another case has cleaned
    come last. `say` is told of each case when its last run ends, and `begin` shows how far it is.
    """
    todo = missing(cases, root)
    total, started = sum(len(case.seeds) for case in todo), time.perf_counter()
    done: list[Done] = []
    waves = (
        [case for case in todo if case.cleaned_by is None],
        [case for case in todo if case.cleaned_by is not None],
    )
    try:
        with begin("Running", total) as move:
            move(0)
            for one in itertools.chain.from_iterable(_run(wave, root, processes) for wave in waves):
                done.append(one)
                move(1)
                left = (time.perf_counter() - started) / len(done) * (total - len(done))
                outcome = f"{_outcome(one)}; about {left / 60:.0f} min left"
                say(f"[{len(done)}/{total}] {one.name}, seed {one.seed}: {outcome}")
    except KeyboardInterrupt:
        say(f"Stopped. {root} keeps what was done; the same command goes on.")
        raise
    return done


def _outcome(done: Done) -> str:
    if done.results is None:
        return f"failed: {done.error}"
    last = done.results["verifications"][max(done.results["verifications"], key=int)]
    return f"accuracy {last['accuracy']:.1%}, {done.results['cpu_seconds']:.0f} s of computing"


def _run(cases: Sequence[Case], root: pathlib.Path, processes: int) -> Iterator[Done]:
    processes = min(processes, len(cases))
    if processes <= 1:
        for case in cases:
            for seed in case.seeds:
                yield run_one(case, root, seed)
        return
    with _environment(root):
        pool = concurrent.futures.ProcessPoolExecutor(
            processes, multiprocessing.get_context("spawn"), _end_with, (os.getpid(),)
        )
        try:
            futures = {pool.submit(run_seeds, case, root): case for case in cases}
            for future in concurrent.futures.as_completed(futures):
                try:
                    yield from future.result()
                except concurrent.futures.process.BrokenProcessPool:
                    why = "a process was killed, as where memory is short; give --processes 1"
                    for each in missing([futures[future]], root):
                        yield from (Done(each.name, seed, None, why) for seed in each.seeds)
        finally:
            pool.shutdown(cancel_futures=True)


def _end_with(parent: int) -> None:
    """Linux ends this process when its parent ends, however that does; the run can go on later."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before
        os._exit(1)


@contextlib.contextmanager
def _environment(root: pathlib.Path) -> Iterator[None]:
    """What processes started inside inherit: one thread each, a store of compiled programs."""
    before = dict(os.environ)
    os.environ["XLA_FLAGS"] = f"{before.get('XLA_FLAGS', '')} {_ONE_THREAD}".strip()
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str((root / "compiled").resolve()))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def run_seeds(case: Case, root: pathlib.Path) -> list[Done]:
    """The runs of a case, one after the other."""
    return [run_one(case, root, seed) for seed in case.seeds]


def run_one(case: Case, root: pathlib.Path, seed: int) -> Done:
    """One run; what is wrong with it is told, not raised, so that the others go on."""
    try:
        return Done(case.name, seed, run_case(case, root, seed))
    except InputError as error:
        return Done(case.name, seed, None, str(error))
    except Stopped as stop:
        raise KeyboardInterrupt from stop
    except Exception as error:  # of a loss or network of one's own, or for want of memory
        traceback.print_exc()
        return Done(case.name, seed, None, " ".join(f"{type(error).__name__}: {error}".split()))


def interrupt_on_termination() -> None:
    """A termination signal ends the processes too, like Ctrl-C; runs write a checkpoint first."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
