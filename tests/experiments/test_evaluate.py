import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from arcface_jax.errors import InputError
from experiments.evaluate import Arguments, read_set, run


def write_faces(path: pathlib.Path, noise: float = 0.8, **more: np.ndarray) -> pathlib.Path:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(20), 4)
    centres = np.repeat(rng.normal(size=(20, 8)), 4, axis=0)
    arrays = {
        "embeddings": centres + noise * rng.normal(size=centres.shape),
        "mirrored": centres + noise * rng.normal(size=centres.shape),
        "labels": labels,
        "images": rng.integers(0, 256, (80, 12, 10, 3), dtype=np.uint8),
        "groups": np.where(labels < 10, "a", "b"),
    }
    np.savez(path, **arrays | more)
    return path


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("evaluation")
    files = (write_faces(folder / "good.npz"), write_faces(folder / "bad.npz", noise=2.5))
    run(Arguments(files, folder / "out", deployment_fars=(0.01, 1e-4), replicates=40))
    return folder / "out"


def test_every_table_and_picture_is_written(evaluated: pathlib.Path) -> None:
    assert {file.name for file in evaluated.iterdir()} == {
        "figures",
        "report.html",
        *(f"table.{extension}" for extension in ("txt", "md", "tex", "csv", "json")),
    }
    assert {file.stem for file in (evaluated / "figures" / "good").iterdir()} == {
        *("roc", "det", "scores", "cmc", "identification_det", "reject", "false_accepts", "false_rejects")
    }
    figures = json.loads((evaluated / "table.json").read_text())
    assert figures["good"]["auc"]["estimate"] > figures["bad"]["auc"]["estimate"] + 0.1


def test_the_report_is_one_page_that_needs_nothing_else(evaluated: pathlib.Path) -> None:
    page = (evaluated / "report.html").read_text()
    assert page.count("<img ") == page.count('src="data:image/png;base64,') == 16
    assert "http" not in page
    assert "<script" not in page
    assert "significant" in page
    assert "cannot tell whether the FAR is below 0.0001" in page
    assert "Rates by group" in page


def test_command_line_errors_are_one_line(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "notes.npz"
    path.write_text("not an archive")
    done = subprocess.run(
        [sys.executable, "-m", "experiments.evaluate", "--embeddings", str(path)], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {path}: not an .npz file")
    assert len(done.stderr.splitlines()) == 1


def test_a_pair_list_in_the_file_is_used(tmp_path: pathlib.Path) -> None:
    pairs = {"first": np.array([0, 4]), "second": np.array([1, 9]), "same": np.array([1, 0])}
    data = read_set(write_faces(tmp_path / "faces.npz", **pairs), "add", 2)
    assert data.pairs is not None
    assert (data.pairs.second.tolist(), data.pairs.same.tolist()) == ([1, 9], [True, False])
    assert data.pairs.num_folds == 2
    assert data.quality is not None
    assert data.embeddings.shape == (80, 8)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mirrored": np.zeros((3, 8))}, "3 mirrored for 80 embeddings"),
        ({"labels": np.zeros(79, int)}, "79 labels for 80 embeddings"),
        ({"first": np.array([0])}, "a pair list needs first, second and same"),
        ({"first": np.array([0]), "second": np.array([0, 1]), "same": np.array([1])}, "a pair list needs"),
        ({"first": np.array([0]), "second": np.array([1]), "same": np.array([7])}, "same: element 0 is 7"),
        ({"labels": np.array([{"a": 1}], dtype=object)}, "not an .npz file of plain arrays"),
    ],
)
def test_bad_files_are_named(tmp_path: pathlib.Path, arrays: dict[str, np.ndarray], message: str) -> None:
    path = write_faces(tmp_path / "faces.npz", **arrays)
    with pytest.raises(InputError, match=message) as caught:
        read_set(path, "add", 10)
    assert "faces.npz" in str(caught.value)


def test_missing_files_and_arrays_are_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.npz: cannot be read"):
        read_set(tmp_path / "nowhere.npz", "add", 10)
    np.savez(tmp_path / "few.npz", features=np.zeros((2, 3)))
    with pytest.raises(InputError, match="has no array 'embeddings', only features"):
        read_set(tmp_path / "few.npz", "add", 10)
    with pytest.raises(InputError, match="no file given"):
        run(Arguments(()))
    with pytest.raises(InputError, match="two files are called few"):
        run(Arguments((tmp_path / "few.npz", tmp_path / "x" / "few.npz")))
