"""Faults of one process, each struck on the real command: kills, a full disk, damage …"""

import pathlib
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from .runs import TINY, Child, Lost, Run, Tally, reference, run_differences

STATEFUL = TINY | {"loss.name": "adaface", "optimiser.ema": "0.9"}
"""With momentum, running statistics of backbone and loss, and a moving average."""

_LAG = 0.2
"""Seconds over which a blow falls after what it waits for."""


def kills(place: pathlib.Path, times: int = 20, seed: int = 0) -> Tally:
    """kill −9 while starting, stepping, saving and drawing, then the same command again."""
    tally = Tally("kill -9", "at random moments; half of them while a checkpoint is being written")
    rng = random.Random(seed)
    calm = reference(Run(place / "calm", STATEFUL))
    moments = _moments(rng)
    in_a_save, number = 0, 0
    while tally.times < times:
        number += 1
        run = calm.another(f"killed-{number}")
        while not run.is_finished():
            started, child = time.time(), run.start()
            if tally.times == times or not _strike(run, child, started, next(moments), rng):
                tally.expect_end(child.wait(), 0)
                break
            tally.times += 1
            in_a_save += run.is_saving(since=started)
        tally.lost += run_differences(run, calm)
    middle = f"{in_a_save} of them in the middle of a save"
    tally.what = f"at random moments, {middle}; the same command each time"
    return tally


def _moments(rng: random.Random) -> Iterator[str]:
    """save, step and start in turn; end where it can be had."""
    while True:
        yield from rng.sample(("save", "step", "save", "start", "save", "end"), 6)


def _strike(run: Run, child: Child, started: float, moment: str, rng: random.Random) -> bool:
    """Kills at a moment; False where the run ended before."""
    before, steps = run.newest(), int(run.options["run.steps"])
    if moment == "start":
        time.sleep(rng.uniform(0.0, 6.0))
    elif moment == "end" and before >= steps - 6:
        child.wait_until(lambda: run.newest() == steps)
        time.sleep(rng.uniform(0.0, 1.0))
    else:
        wanted = min(before + rng.choice((0, 1, 2)), steps - 1)
        child.wait_until(lambda: run.newest() >= wanted)
        child.wait_until(lambda: run.newest() > wanted or run.is_saving(since=started))
        time.sleep(rng.uniform(0.0, _LAG) if moment == "step" else rng.uniform(0.0, 0.03))
    if child.process.poll() is not None:
        return False
    child.kill()
    return not run.is_finished()


def signals(place: pathlib.Path) -> Tally:
    """A termination signal, then Ctrl-C; each saves the last step, though none was due."""
    tally = Tally(
        "signals", "SIGTERM ends with 143, SIGINT with 130, both with a checkpoint of the last step"
    )
    calm = reference(Run(place / "calm", STATEFUL))
    run = calm.another("signalled", run__checkpoint_every="3")
    for number, status in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        tally.expect_end(run.stop(run.start(), number), status, "with a checkpoint. To go on: ")
        tally.times += 1
        newest, logged = run.newest(), run.last_logged()
        tally.expect(newest == logged, f"steps {newest} to {logged} were done, not saved")
    tally.expect_end(run.to_the_end(), 0)
    tally.lost += run_differences(run, calm)
    return tally


def full_disk(place: pathlib.Path) -> Tally:
    """No file may grow any more from some step on, as on a full disk; then there is room again."""
    what = "no byte can be written from some step on: ends with 2, goes on once there is room"
    tally = Tally("full disk", what)
    calm = reference(Run(place / "calm", STATEFUL))
    run = calm.another("full")
    child = run.start()
    if not child.wait_until(lambda: run.newest() >= 3):
        raise Lost(f"ended before the disk was full: … {child.said()[-400:]}")
    # Files of the run only.
    resource.prlimit(child.process.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    tally.times += 1
    tally.expect_end(child.wait(), 2, "error:")
    tally.expect(run.newest() >= 3, "the checkpoints from before are gone")
    tally.expect_end(run.to_the_end(), 0, "Going on from the checkpoint of step")
    tally.lost += run_differences(run, calm)
    return tally


def truncate(checkpoint: pathlib.Path) -> None:
    """Cuts every file of the state in half."""
    for file in _files(checkpoint / "state"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def lose_metadata(checkpoint: pathlib.Path) -> None:
    """Removes the JSON part."""
    shutil.rmtree(checkpoint / "metadata")


def cut_metadata(checkpoint: pathlib.Path) -> None:
    """Cuts the JSON part."""
    for file in _files(checkpoint / "metadata"):
        file.write_bytes(file.read_bytes()[:10])


def lose_state(checkpoint: pathlib.Path) -> None:
    """Removes the arrays."""
    shutil.rmtree(checkpoint / "state")


def lose_manifest(checkpoint: pathlib.Path) -> None:
    """Removes the list of the arrays' places."""
    for file in (checkpoint / "state").rglob("manifest.ocdbt"):
        file.unlink()


def zero_arrays(checkpoint: pathlib.Path) -> None:
    """Overwrites the arrays with zeros, as a file system may after a power failure."""
    for file in _files(checkpoint / "state"):
        if file.parent.name == "d":
            file.write_bytes(bytes(file.stat().st_size))


def flip_bit(checkpoint: pathlib.Path) -> None:
    """Flips one bit in the middle of the largest file of arrays, as a failing disk may."""
    file = max(_files(checkpoint / "state"), key=lambda file: file.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def lose_everything(checkpoint: pathlib.Path) -> None:
    """Leaves an empty folder."""
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()


DAMAGES: tuple[Callable[[pathlib.Path], None], ...] = (
    truncate,
    lose_metadata,
    cut_metadata,
    lose_state,
    lose_manifest,
    zero_arrays,
    flip_bit,
    lose_everything,
)
"""Ways to damage a checkpoint."""

TYPICAL = (truncate, cut_metadata, flip_bit, lose_everything)
"""Those that the command tries: a broken-off write, a failing disk, a file system's repair."""


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    return [file for file in sorted(folder.rglob("*")) if file.is_file()]


def damaged_checkpoints(
    place: pathlib.Path, damages: tuple[Callable[[pathlib.Path], None], ...] = TYPICAL
) -> Tally:
    """Damages the newest checkpoint in several ways, then all of them."""
    tally = Tally(
        "damaged checkpoint", "the newest one damaged: kept aside, the one before goes on"
    )
    calm = reference(Run(place / "calm", STATEFUL))
    run = calm.another("damaged")
    run.stop(run.start(), steps=2)
    for damage in damages:
        newest = run.newest()
        damage(run.checkpoints / str(newest))
        tally.times += 1
        said = (f"{newest}: is damaged", "set aside as", "Going on from the checkpoint")
        tally.expect_end(run.stop(run.start()), 143, *said)
        kept_aside = any(run.folder.glob(f"damaged-{newest}-*"))
        tally.expect(kept_aside, f"the damaged checkpoint {newest} was not kept")
    kept = run.folder.with_name("kept")
    shutil.copytree(run.checkpoints, kept)
    for checkpoint in run.checkpoints.iterdir():
        truncate(checkpoint)
    for _ in range(2):  # giving the command again must not begin the run anew
        tally.times += 1
        tally.expect_end(run.to_the_end(), 2, "none could be read")
    shutil.rmtree(run.checkpoints)
    kept.rename(run.checkpoints)
    tally.expect_end(run.to_the_end(), 0)
    tally.lost += run_differences(run, calm)
    return tally


def other_configuration(place: pathlib.Path) -> Tally:
    """The same folder with another configuration: refused, unless it is said to be meant."""
    tally = Tally(
        "other configuration", "refused with the differences; --run.resume changed goes on"
    )
    run = Run(place / "configured", STATEFUL)
    run.stop(run.start())
    before = _contents(run.folder)
    other = run.another("configured", loss__margin="0.3", run__steps="12")
    tally.times += 1
    tally.expect_end(other.to_the_end(), 2, "loss.margin is 0.3, was 0.4; run.steps is 12, was 24")
    tally.expect(_contents(run.folder) == before, "the refused command changed files of the run")
    meant = other.another("configured", run__resume="changed")
    tally.expect_end(meant.to_the_end(), 0, "Going on with loss.margin is 0.3, was 0.4")
    tally.expect(run.newest() == 12, f"went on to step {run.newest()}, not to 12")
    return tally


def _contents(folder: pathlib.Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in _files(folder)}


def changed_data(place: pathlib.Path) -> Tally:
    """Images that change, come or go between two starts: refused."""
    tally = Tally("changed data", "an image replaced, one removed: refused; put back: goes on")
    people = place / "people"
    _draw_people(people)
    options = {name: value for name, value in STATEFUL.items() if not name.startswith("data")}
    options |= {"data.source": "folder", "data.root": str(people), "data.image-size": "16"}
    options |= {"data.pairs": "60", "data.test-fraction": "0.5", "data.loading": "stream"}
    calm = reference(Run(place / "calm-people", options))
    run = calm.another("changing")
    run.stop(run.start())
    image = people / "p0" / "0.png"
    kept = image.read_bytes()
    for change in (lambda: image.write_bytes((people / "p1" / "0.png").read_bytes()), image.unlink):
        change()
        tally.times += 1
        tally.expect_end(run.to_the_end(), 2, "other data")
        image.write_bytes(kept)
    tally.expect_end(run.to_the_end(), 0)
    tally.lost += run_differences(run, calm)
    return tally


def _draw_people(folder: pathlib.Path) -> None:
    """Eight people with six noisy pictures each."""
    rng = np.random.default_rng(0)
    for person in range(8):
        (folder / f"p{person}").mkdir(parents=True, exist_ok=True)
        base = rng.integers(0, 255, (16, 16, 3))
        for picture in range(6):
            pixels = np.clip(base + rng.normal(0, 20, base.shape), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"p{person}" / f"{picture}.png")


def not_finite(place: pathlib.Path) -> Tally:
    """A learning rate that overflows: steps are skipped, the run stops, the last is replayed."""
    what = "a learning rate that overflows: steps skipped and counted, the last one replayed"
    tally = Tally("not finite", what)
    hot = {"optimiser.learning-rate": "1e30", "optimiser.warmup": "0.0", "run.bad-steps": "3"}
    run = Run(place / "hot", TINY | hot)
    ended = run.to_the_end()
    tally.times += 1
    tally.expect_end(ended, 2, "not finite in 3 steps in a row", "replay")
    dumps = sorted(run.folder.glob("bad-step-*"))
    tally.expect(len(dumps) == 1, f"{len(dumps)} steps were kept, not one")
    for dump in dumps:
        tally.expect_end(run.give("replay", str(dump)).wait(), 0, "not finite")
        tally.expect((dump / "report.json").exists(), "the replay left no report")
    return tally


def no_place(place: pathlib.Path) -> Tally:
    """A run folder that cannot be written: one line, before anything is computed."""
    tally = Tally("unwritable folder", "a file in the way of the run folder: refused in one line")
    place.mkdir(parents=True, exist_ok=True)
    (place / "file").write_text("in the way")
    run = Run(place / "blocked", TINY)
    child = run.give("train", "--run.folder", str(place / "file" / "run"))
    tally.times += 1
    tally.expect_end(child.wait(), 2, "cannot be written")
    return tally
