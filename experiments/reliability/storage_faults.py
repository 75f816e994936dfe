"""Faults of object storage, each struck on the real command with its run folder in a bucket."""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator

from arcface_jax.buckets import BucketPath
from arcface_jax.runs.run_folder import CHECKPOINTS_FOLDER
from arcface_jax.runs.staging import LIST_FILE

from . import storage
from .faults import STATEFUL
from .runs import Child, Lost, Run, Tally, reference, run_differences
from .storage import SECRET, Fault

_SOME = 6
"""Steps between the checkpoints."""


@dataclasses.dataclass(frozen=True)
class BucketRun(Run):
    """A run whose folder is in a bucket, with what its starts find there."""

    environment: dict[str, str] = dataclasses.field(default_factory=dict)

    def start(self, *flags: str, **environment: str) -> Child:
        """Gives the command."""
        return super().start(*flags, **(self.environment | environment))

    def newest(self) -> int:
        """The step of the newest checkpoint that is complete; 0 without any."""
        assert isinstance(self.folder, BucketPath)
        ends = (f"{CHECKPOINTS_FOLDER}/", f"/{LIST_FILE}")
        found = [name.removeprefix(ends[0]) for name in self.folder.find() if name.endswith(ends)]
        return max((int(name.partition("/")[0]) for name in found), default=0)

    def tells_secrets(self) -> list[str]:
        """Files of the run that have the credentials in them."""
        assert isinstance(self.folder, BucketPath)
        names = self.folder.find()
        return [name for name in names if SECRET.encode() in (self.folder / name).read_bytes()]


@contextlib.contextmanager
def _run(place: pathlib.Path, name: str, fault: Fault) -> Iterator[tuple[Run, BucketRun]]:
    """A run on a disk that nothing happens to, and one to begin on struck storage."""
    calm = reference(Run(place / "calm", STATEFUL))
    options = STATEFUL | {"run.checkpoint-every": str(_SOME)}
    with storage.struck_by(fault) as environment:
        cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(place / "compiled"))
        folder = storage.bucket() / place.name / name
        yield (
            calm,
            BucketRun(
                folder, options, environment=environment | {"JAX_COMPILATION_CACHE_DIR": cache}
            ),
        )


def _survives(place: pathlib.Path, name: str, fault: Fault, tally: Tally) -> Tally:
    """The run ends as if nothing had happened."""
    with _run(place, name, fault) as (calm, run):
        ended = run.to_the_end()
        tally.times += 1
        tally.expect_end(ended, 0)
        tally.expect(SECRET not in ended.said, "the credentials are in its output")
        tally.lost += run_differences(run, calm)
        tally.lost += [f"the credentials are in {name}" for name in run.tells_secrets()]
    return tally


def slow_storage(place: pathlib.Path) -> Tally:
    """Every request takes a twentieth of a second longer."""
    return _survives(
        place, "slow", storage.slow(), Tally("slow storage", "each request waits 0.05 s: as ever")
    )


def failing_storage(place: pathlib.Path) -> Tally:
    """One request in ten fails."""
    what = "one request in ten is answered by an error: tried again, nothing differs"
    return _survives(place, "failing", storage.failing(), Tally("failing storage", what))


def broken_uploads(place: pathlib.Path) -> Tally:
    """One upload in five breaks off in its middle."""
    what = "one upload in five breaks off: sent again, nothing differs"
    return _survives(place, "resetting", storage.resetting(), Tally("broken uploads", what))


def _ends_and_goes_on(
    place: pathlib.Path,
    name: str,
    fault: Callable[[Callable[[], bool]], Fault],
    tally: Tally,
    said: str,
) -> Tally:
    """From the first checkpoint on storage is struck; then it is not any more."""
    struck = False
    with _run(place, name, fault(lambda: struck)) as (calm, run):
        child = run.start()
        if not child.wait_until(lambda: run.newest() >= _SOME):
            raise Lost(f"ended before the storage was struck: … {child.said()[-400:]}")
        struck = True
        tally.times += 1
        tally.expect_end(child.wait(), 2, "error:", said)
        tally.expect(run.newest() >= _SOME, "the checkpoints from before are gone")
        struck = False
        tally.expect_end(run.to_the_end(), 0, "Going on from the checkpoint of step")
        tally.lost += run_differences(run, calm)
    return tally


def full_storage(place: pathlib.Path) -> Tally:
    """A quota is reached; then there is room again."""
    what = "over the quota from some step on: ends with 2, goes on once there is room"
    said = "the storage is full, or over its quota"
    return _ends_and_goes_on(place, "full", storage.full, Tally("full storage", what), said)


def wrong_credentials(place: pathlib.Path) -> Tally:
    """The key is nobody's: one line, before anything is computed."""
    tally = Tally("wrong credentials", "a key that the storage does not know: refused in one line")
    with storage.struck_by(storage.strange) as environment:
        run = BucketRun(storage.bucket() / place.name / "strange", STATEFUL, 1, environment)
        ended = run.to_the_end()
        tally.times += 1
        tally.expect_end(ended, 2, "the storage refuses these credentials")
        tally.expect(SECRET not in ended.said, "the credentials are in its output")
        tally.expect("Preparing" not in ended.said, "it began to work")
    return tally


def two_runs(place: pathlib.Path) -> Tally:
    """A second run into one folder, while the first is at work and after it was killed."""
    what = "a second is refused; after kill -9 of the first the same command goes on"
    tally = Tally("two runs, one folder", what)
    with _run(place, "two", storage.slow(0.2)) as (calm, run):
        run = run.another("two", run__checkpoint_every="1")
        child = run.start()
        if not child.wait_until(lambda: run.newest() >= 1):
            raise Lost(f"ended before the second began: … {child.said()[-400:]}")
        second = run.start()
        tally.times += 1
        tally.expect_end(second.wait(), 2, "another run is at work there")
        child.kill()
        tally.times += 1
        tally.expect_end(run.to_the_end(), 0)
        tally.lost += run_differences(run, calm)
    return tally
