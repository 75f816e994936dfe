"""The command, as a person types it."""

import functools
import io
import json
import pathlib
import re
import shlex
import shutil
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from arcface_jax.commands.command import run_command
from arcface_jax.commands.run_report import sample_grid
from arcface_jax.data.sources.folder import FolderSource
from arcface_jax.errors import InputError
from arcface_jax.losses import CosFace, MagFace, NormFace, automatic_scale
from arcface_jax.margins import cosface
from arcface_jax.training.config import Config
from arcface_jax.training.config_file import config_to_json
from experiments import figures, train
from tests import processes
from tests.experiments import small_network  # noqa: F401 - registers its network

SMALL = shlex.split(
    "--data.image-size 16 --data.pairs 60 --model.name one_convolution --model.width 4 "
    "--model.embedding-size 16 --run.steps 4 --run.batch-size 8 --run.evaluate-every 2 "
    "--run.log-every 1 --run.devices 1"
)
FOLDER = ["folder", "--data.root", "people", *SMALL]


def typed(folder, *arguments):
    """(exit status, what it printed, errors) of the command, typed in a folder."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["train", *arguments])
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        with pytest.raises(SystemExit) as stop:
            run_command(train.main)
    return stop.value.code, out.getvalue(), err.getvalue()


def write_people(folder):
    """Six people with six grey pictures each."""
    random = np.random.default_rng(0)
    for person in range(6):
        own = folder / "people" / f"p{person}"
        own.mkdir(parents=True)
        base = random.integers(0, 255, (20, 16))
        for picture in range(6):
            pixels = np.clip(base + random.normal(0, 20, base.shape), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(own / f"{picture}.pgm")


@pytest.fixture
def command(monkeypatch, tmp_path):
    """`typed` in an empty folder, which the test is in from then on."""
    monkeypatch.chdir(tmp_path)
    return functools.partial(typed, tmp_path)


@pytest.fixture
def people(tmp_path):
    """The folder of `write_people`."""
    write_people(tmp_path)
    return tmp_path / "people"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(folder, what it printed) of a run of the main job on people, in `here`."""
    folder = tmp_path_factory.mktemp("finished")
    write_people(folder)
    status, out, err = typed(folder, *FOLDER, "--run.folder", "here")
    assert status == 0, err
    return folder, out


@pytest.mark.parametrize(
    ("options", "margin", "scale"),
    [
        (("--loss.scale", "auto"), 0.5, automatic_scale(3)),
        (("--loss.scale=auto", "--loss.margin", "auto"), 0.5, automatic_scale(3)),
        (("--loss.scale", "auto", "--loss.margin=0.3"), 0.3, automatic_scale(3, 0.3)),
        (("--loss.scale", "2", "--loss.scale", "auto"), 0.5, automatic_scale(3)),
        (("--loss.scale", "auto", "--loss.scale", "2"), 0.5, 2.0),
        (("--model.embedding-size", "2", "--loss.margin", "auto"), 0.5, 16.0),
        (
            ("--loss.scale", "auto", "--loss.name", "cosface"),
            0.35,
            automatic_scale(3, cosface(0.35)),
        ),
        (("--loss.name=adaface", "--loss.scale=auto"), 0.4, automatic_scale(3)),
        (("--loss.name=normface", "--loss.scale=auto"), None, automatic_scale(3, 0.0)),
    ],
)
def test_what_the_data_decide_becomes_a_number(people, options, margin, scale):
    config = train.parse([*FOLDER, "--data.root", str(people), *options])
    assert getattr(config.loss, "margin", None) == margin
    assert config.loss.scale == pytest.approx(scale, rel=1e-2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--loss.margin", "auto", "--loss.name", "cosface"), "--loss.margin auto is ArcFace's"),
        (("--loss.scale", "auto", "--loss.name", "softmax"), "auto is for softmax over cosines"),
        (("--loss.scale", "auto", "--data.root", "nowhere"), "nowhere"),
        (("--loss.scale", "automatic"), "automatic"),
    ],
)
def test_what_the_data_cannot_decide_is_told(people, options, said):
    with pytest.raises(InputError, match=said):
        train.parse([*FOLDER, "--data.root", str(people), *options])


def test_main_job_on_a_folder_from_start_to_end(finished):
    folder, out = finished[0] / "here", finished[1]
    for said in (
        "18 images of 3 identities",
        "one_convolution, width 4",
        "expected to start at",
        "auto would be ",
        "probability 0.9 over 3 classes takes",
        "Initial loss",
        "before training",
        "TAR at FAR",
    ):
        assert said in out
    results = json.loads((folder / "results.json").read_text())
    assert set(results["verifications"]) == {"0", "2", "4"}
    assert 0 <= results["verifications"]["4"]["accuracy"] <= 1
    for name in ("samples", "loss", "learning_curve", "roc", "scores", "angles", "monitor"):
        with Image.open(folder / "figures" / f"{name}.png") as picture:
            assert min(picture.size) > 300
        assert f"{name}.png" in out
    assert (folder / "checkpoints").is_dir()
    summary = (folder / "summary.html").read_text()
    assert summary.count("data:image/png;base64,") == 7
    assert not re.search(r"(src|href)=\"(?!data:)", summary)  # it needs no other file
    for said in (
        "held_out, before training",
        "held_out, step 4",
        "18 images of 3 identities",
        "optimiser.weight_decay",
    ):
        assert said in summary
    best = results["best"]["first"]
    assert best["accuracy"] == max(
        numbers["accuracy"] for numbers in results["verifications"].values()
    )


@pytest.mark.slow
def test_a_browser_shows_the_summary_with_every_picture(finished):
    """Chromium lays the page out: seven pictures one below the other, none broken, no sideways
    scrolling.
    """
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    page = finished[0] / "here" / "summary.html"
    probe = (
        "<script>onload=()=>{const i=[...document.images];document.title='seen "
        "'+i.filter(p=>p.naturalWidth>300&&p.getBoundingClientRect().width>300).length+' wide "
        "'+(document.documentElement.scrollWidth>innerWidth)}</script>"
    )
    (page.parent / "probed.html").write_text(page.read_text() + probe)
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--window-size=1000,800",
        "--dump-dom",
    ]
    shown = processes.run([chromium, *options, (page.parent / "probed.html").as_uri()], seconds=120)
    assert "<title>seen 7 wide false</title>" in shown.stdout


def test_a_saved_configuration_runs_again_to_the_same_bits(finished):
    folder, _ = finished
    assert typed(folder, "--config", "here/config.json", "--run.folder", "second")[0] == 0
    first, second = (folder / name / "metrics.jsonl" for name in ("here", "second"))
    assert first.read_bytes() == second.read_bytes()


def test_a_finished_run_is_left_as_it_is(finished):
    """As when a cluster starts a job again that had ended."""
    folder, arguments = finished[0], [*FOLDER, "--run.folder", "here"]
    before = {file: file.stat().st_mtime_ns for file in (folder / "here").rglob("*")}
    status, out, _ = typed(folder, *arguments)
    assert (status, out) == (0, "here: this run is finished, its results are there\n")
    assert {file: file.stat().st_mtime_ns for file in (folder / "here").rglob("*")} == before
    assert typed(folder, *arguments, "--run.steps", "5")[0] == 2


def test_options_override_the_preset():
    config = train.parse(
        ["folder", "--data.root", "x", "--loss.name", "cosface", "--loss.margin", "0.2"]
    )
    assert config.data.source == "folder"
    assert config.data.test_fraction == 0.5
    assert config.loss == CosFace(scale=16.0, margin=0.2)


def test_the_fields_of_a_loss_are_options():
    config = train.parse(["--loss.name", "magface", "--loss.l-m", ".4", "--loss.scale=32"])
    assert config.loss == MagFace(scale=32.0, l_m=0.4)
    assert type(config.loss) is MagFace
    assert train.parse(["--loss.name=magface"]).loss == MagFace(scale=16.0)
    learnt = train.parse(["--loss.name", "normface", "--loss.learn-scale"]).loss
    assert learnt == NormFace(scale=16.0, learn_scale=True)


def test_a_configuration_file_keeps_its_loss_and_takes_another(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(config_to_json(Config(loss=MagFace(scale=24.0, l_m=0.4))))
    arguments = ["--config", str(file)]
    assert train.parse(arguments).loss == MagFace(scale=24.0, l_m=0.4)
    changed = train.parse([*arguments, "--loss.name", "magface", "--loss.u-m", "0.9"]).loss
    assert changed == MagFace(scale=24.0, l_m=0.4, u_m=0.9)
    assert train.parse([*arguments, "--loss.name", "cosface"]).loss == CosFace(scale=24.0)


def test_help_shows_the_fields_of_the_loss_that_is_named(command):
    status, out, _ = command("--loss.name", "magface", "--help-all")
    assert status == 0
    for said in ("--loss.name", "--loss.l-m", "--loss.regulariser-weight", "Margin at length l_a"):
        assert said in out
    assert "--loss.margin-warmup" not in out
    assert "--loss.margin-warmup" in command("--help-all")[1]


def test_help_explains_every_field(command):
    status, out, _ = command("--help-all")
    assert status == 0
    for said in (
        "--optimiser.weight-decay",
        "Share of the identities",
        "--presets",
        "--config",
    ):
        assert said in out


@pytest.mark.parametrize(
    "arguments", [["--no.such", "1"], ["--run.steps", "many"], ["--loss.name", "arcfase"]]
)
def test_unknown_options_and_values_end_with_status_2(command, arguments):
    status, out, err = command(*arguments)
    assert status == 2
    assert arguments[0].removeprefix("--") in err + out
    assert "Traceback" not in err + out
    assert not list(pathlib.Path().glob("runs/*"))


def corrupt(people):
    (people / "p0" / "0.pgm").write_bytes(b"P5 16 20 255\n short")


def empty(people):
    for file in people.rglob("*.pgm"):
        file.unlink()


def one_identity(people):
    for folder in list(people.iterdir())[1:]:
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("spoil", "arguments", "said"),
    [
        (None, ["portrait"], "no preset is called 'portrait'"),
        (None, ["folder"], "--data.root DIR"),
        (None, ["--data.root", "people"], "data.root people is not used by source synthetic"),
        (None, ["folder", "--data.root", "absent"], "absent"),
        (empty, ["folder", "--data.root", "people"], "people"),
        (corrupt, ["folder", "--data.root", "people"], "p0/0.pgm"),
        (one_identity, ["folder", "--data.root", "people"], "of 1 identity"),
        (
            None,
            ["folder", "--data.root", "people", "--run.batch-size", "80"],
            "batch_size 80 is larger than the 18",
        ),
        (
            None,
            ["folder", "--data.root", "people", "--run.folder", "people/p0/0.pgm/run"],
            "cannot be written",
        ),
        (None, ["--config", "absent.json"], "absent.json"),
        (None, ["--config"], "--config needs a file"),
        (None, ["--model.name", "vgg"], "vgg"),
        (
            None,
            ["--loss.name", "softmax", "--loss.margin", "0.5"],
            "--loss.margin: loss.name softmax has no margin; it has label_smoothing",
        ),
        (
            None,
            ["--loss.margin-warmup=.5", "--loss.name", "magface"],
            "--loss.margin-warmup: loss.name magface has no margin_warmup; it has ",
        ),
        (
            None,
            ["--loss.name", "nonsense"],
            "loss.name nonsense: no such loss; choose one of ",
        ),
        (None, ["--loss.name"], "--loss.name needs one of "),
        (None, ["--loss.name", "arcface", "--loss.margin", "9"], "loss.name arcface: m"),
        (None, ["--run.resume", "changed"], "need --run.folder"),
    ],
)
def test_bad_input_is_one_clear_line(command, people, spoil, arguments, said):
    if spoil:
        spoil(people)
    small = [] if "--config" in arguments else SMALL
    # Later options win, so the case's own come last.
    preset, own = (
        (arguments[:1], arguments[1:]) if not arguments[0].startswith("-") else ([], arguments)
    )
    status, _, err = (
        command(*own, *small) if "--config" in arguments else command(*preset, *small, *own)
    )
    assert status == 2
    assert err.startswith("error: ")
    assert said in err
    assert err.count("\n") == 1
    assert not list(pathlib.Path().rglob("results.json"))


def test_faces_in_a_zip_file(shared_data, command):
    with zipfile.ZipFile(shared_data / "orl_faces.zip") as archive:
        assert len(archive.namelist()) >= 400
    status, out, _ = command("folder", "--data.root", str(shared_data / "orl_faces.zip"), *SMALL)
    assert status == 0
    assert "200 images of 20 identities" in out


def test_embeddings_that_face_away_from_their_centres_are_warned_of():
    assert (
        train.angle_warning({0: np.full(4, 100.0), 9: np.array([30.0, 40.0, 50.0, 160.0])}) is None
    )
    assert train.angle_warning({9: np.linspace(70.0, 111.0, 50)}) is None  # hardly trained yet
    warning = train.angle_warning({0: np.full(4, 80.0), 9: np.array([30.0, 160.0, 150.0, 160.0])})
    assert warning.startswith("75% of the training images")
    assert "--loss.gradient straight_through" in warning


def test_config_may_stand_anywhere_but_not_beside_a_preset(tmp_path):
    (tmp_path / "c.json").write_text('{"run": {"steps": 7}}')
    for arguments in (
        ["--run.seed", "3", "--config", f"{tmp_path}/c.json"],
        [f"--config={tmp_path}/c.json", "--run.seed", "3"],
    ):
        assert (train.parse(arguments).run.steps, train.parse(arguments).run.seed) == (7, 3)
    with pytest.raises(InputError, match="a preset and --config"):
        train.parse(["folder", "--config", f"{tmp_path}/c.json"])


def test_bad_input_leaves_no_folder_behind(command, people):
    command(*FOLDER, "--run.batch-size", "80", "--run.folder", "run")
    assert not pathlib.Path("run").exists()
    pathlib.Path("model.pth").write_bytes(b"no model")
    status, _, err = command(
        "folder",
        "--data.root",
        "people",
        *SMALL,
        "--model.init",
        "model.pth",
        "--run.folder",
        "run",
    )
    assert (status, err.count("model.pth")) == (2, 1)
    assert not pathlib.Path("run").exists()


def test_an_output_place_that_cannot_be_written_is_one_line(monkeypatch, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(sys, "argv", ["figures", "faces", "--folder", str(tmp_path / "file" / "x")])
    with pytest.raises(SystemExit) as stop:
        run_command(figures.main)
    assert stop.value.code == 2
    assert "Not a directory" in capsys.readouterr().err


def test_check_looks_and_trains_nothing(command, people):
    (people / "p1" / "copy.pgm").write_bytes((people / "p0" / "0.pgm").read_bytes())
    (people / "p1" / "film.mp4").write_bytes(b"x")
    status, out, err = command(*FOLDER, "--check", "--against", "people/p0/../../people")
    assert status == 1
    assert (out + err).count("• people: left out as no images: .mp4 (1)") == 1
    assert (out + err).count("left out as no images") == 2  # of the test set, too
    for said in (
        "37 images of 6 identities",
        "people/p1/film.mp4",
        "exact copy, other identity: 1 image is equal to one of another identity",
        "people/p1/copy.pgm and people/p0/0.pgm",
        "exact copy in people: 37 images",
        "Written: runs/check/check.html, runs/check/check.csv, runs/check/contact_sheet.png",
    ):
        assert said in out
    assert "not 16×16" not in out
    assert re.search(r"take (\d+ h |\d+ min )?\d+ (s|min) at [\d,]+ images a second", out)
    assert all(pathlib.Path(f"runs/check/check.{kind}").exists() for kind in ("html", "csv"))
    assert not list(pathlib.Path().rglob("metrics.jsonl"))


def test_unreadable_images_are_left_out_and_counted_if_asked(command, people, without_pictures):
    for file in (people / "p0").iterdir():
        file.write_bytes(b"damaged")
    verify = ("--data.test-fraction", "0", "--data.verify", "v")
    shutil.copytree(people, people.parent / "v", ignore=shutil.ignore_patterns("p[0-2]"))
    status, out, _ = command(*FOLDER, *verify, "--data.unreadable", "skip")
    assert status == 0
    assert "6 images cannot be decoded and are left out" in out
    assert "People left out for having no other images: 1; the first: p0" in out


def test_unreadable_images_of_a_stream_are_replaced_and_counted(command, people):
    for file in (people / "p0").iterdir():
        file.write_bytes(b"damaged")
    streamed = (
        "--data.unreadable",
        "skip",
        "--data.loading",
        "stream",
        "--data.test-fraction",
        "0",
        "--data.verify",
        "v",
    )
    shutil.copytree(people, people.parent / "v", ignore=shutil.ignore_patterns("p[0-2]"))
    status, out, _ = command(*FOLDER, *streamed)
    assert status == 0
    assert re.search(
        r"[1-9]\d* times an image could not be decoded and another took its place: .*p0",
        " ".join(out.split()),
    )
    assert "Classes none of whose images could be decoded: 1; the first: p0." in out


def test_a_sheet_of_images_tells_the_files_and_leaves_out_what_cannot_be_read(people):
    (people / "p1" / "2.pgm").write_bytes(b"damaged")
    source = FolderSource(people)
    grid, names, files = sample_grid(source, (20, 16))
    assert grid.shape == (6, 8, 20, 16, 3)
    assert names == [f"p{person}" for person in range(6)]
    assert files[0] == [*(f"{number}.pgm" for number in range(6)), "", ""]
    assert files[1][1:4] == ["1.pgm", "", "3.pgm"]
    for person, number in ((0, 0), (1, 1), (1, 3), (2, 0), (5, 5)):
        np.testing.assert_array_equal(grid[person, number], source[6 * person + number])
    assert not grid[:, 6:].any()


def test_names_with_brackets_are_printed_as_they_are(command, people, without_pictures):
    people.rename(people.parent / "[old]")
    status, out, _ = command("folder", "--data.root", "[old]", *SMALL, "--check")
    assert status in (0, 1)
    status, out, _ = command("folder", "--data.root", "[old]", *SMALL)
    assert status == 0
    assert "[old], 16×16" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--against"], "--against needs a test set"),
        (["--check", "--against"], "--against needs a test set"),
        (["--against", "x"], "--against belongs to --check"),
        (["--checkpoint", "x"], "--checkpoint belongs to --check, .* is --model.init"),
        (["--check", "--checkpoint"], "--checkpoint needs the folder of a run"),
        (["--check", "--checkpoint", "a", "--checkpoint=b"], "--checkpoint is given 2 times"),
        (["--check", "--project", "adaface"], "--project is of --checkpoint"),
    ],
)
def test_what_belongs_to_a_check_is_used_with_it(arguments, message):
    with pytest.raises(InputError, match=message):
        train.take_check(arguments)


def test_the_options_of_a_check_are_told_from_the_others():
    typed = shlex.split("--run.seed 3 --check --against a --checkpoint m --against=b")
    check, rest = train.take_check(typed)
    assert check == train.Check(("a", "b"), "m")
    assert rest == ["--run.seed", "3"]
    assert train.take_check(rest) == (None, rest)


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (InputError("data.root x: is gone"), 2, "error: data.root x: is gone"),
        (MemoryError(), 2, "error: this takes more memory than there is"),
        (ValueError("UNKNOWN: Gloo all-reduce failed"), 1, "error: this process cannot go on with"),
        (KeyError("a fault of ours"), 1, "KeyError: 'a fault of ours'"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_one_of_several_processes_that_meets_an_error_says_so_and_ends_at_once(
    monkeypatch, capsys, error, status, said
):
    class Left(BaseException):
        pass

    def run_one(config, console):
        raise error

    def leave(status):
        raise Left(status)

    monkeypatch.setattr("jax.process_count", lambda: 2)
    monkeypatch.setattr(train, "join_processes", lambda: None)
    monkeypatch.setattr(train, "run_one", run_one)
    monkeypatch.setattr(train, "leave", leave)
    with pytest.raises(Left) as left:
        train.run(train.parse(["--run.distributed"]), Console(quiet=True))
    assert left.value.args == (status,)
    assert capsys.readouterr().err.splitlines()[-1].startswith(said)
