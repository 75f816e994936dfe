"""Folders of NumPy arrays, what people really have on disk among them; tones to train on."""

import dataclasses
import io
import pickle
import shutil

import numpy as np
import pytest

from arcface_jax.data.decode import encode_png
from arcface_jax.data.in_memory import load_images
from arcface_jax.data.open import open_source
from arcface_jax.data.sources.arrays import ArraySource, decode_array
from arcface_jax.errors import InputError
from arcface_jax.evaluation.retrieval import retrieve
from arcface_jax.losses import InterTopK
from arcface_jax.runs.dataset import configured_source
from arcface_jax.runs.loop import train
from arcface_jax.runs.run_folder import RunFolder
from arcface_jax.runs.setup import prepare
from arcface_jax.training.config import Config, DataConfig
from experiments.study.plan import changed
from experiments.study.run import Quiet
from tests.experiments.small_network import SMALL


def npy(array, version=(1, 0), **options):
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(array), version, **options)
    return file.getvalue()


def tones(folder, speakers=6, each=6, size=(24, 16)):
    """Spectrograms of three harmonics of a pitch, of a loudness and phase that vary, in [0, 1]."""
    rng, (height, width) = np.random.default_rng(0), size
    window = 2 * height
    time = np.arange(window * width) / 8000
    for speaker in range(speakers):
        (folder / f"speaker{speaker}").mkdir(parents=True)
        for take in range(each):
            pitch = 300 * 1.25**speaker * rng.uniform(0.99, 1.01)
            wave = sum(
                np.sin(2 * np.pi * (n * pitch * time + rng.uniform())) / n for n in (1, 2, 3)
            )
            wave = rng.uniform(0.5, 1) * wave + 0.05 * rng.normal(size=len(time))
            spectra = np.abs(np.fft.rfft(wave.reshape(width, window) * np.hanning(window)))
            decibels = 20 * np.log10(spectra[:, :height].T + 1e-3)
            scaled = np.clip((decibels + 60) / 100, 0, 1).astype(np.float32)
            np.save(folder / f"speaker{speaker}" / f"{take}.npy", scaled)
    return folder


def test_tones_are_opened_by_what_they_are(tmp_path):
    folder = tones(tmp_path / "tones")
    source = open_source(folder)
    assert isinstance(source, ArraySource)
    assert source.identity_names == [f"speaker{n}" for n in range(6)]
    assert (len(source), source.shape) == (36, (24, 16, 3))
    images = load_images(source, (24, 16))
    first = np.load(folder / "speaker0" / "0.npy")
    for channel in range(3):
        np.testing.assert_allclose(images[0][..., channel] / 255, first, atol=0.5 / 255 + 1e-6)
    unit = images[..., 0].reshape(36, -1).astype(np.float32)
    unit -= unit.mean(axis=0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    assert retrieve(unit, source.labels).numbers()["recall@1"] == 1.0
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", folder)
    zipped = open_source(archive)
    np.testing.assert_array_equal(zipped[7], source[7])
    assert zipped.fingerprint == source.fingerprint


@pytest.mark.slow
def test_a_run_learns_tones(tmp_path):
    folder = tones(tmp_path / "tones", speakers=8, each=10)
    config = changed(Config(), SMALL | {"run.steps": 60, "run.evaluate_every": 60})
    data = DataConfig(
        source="auto",
        root=str(folder),
        image_size=24,
        image_width=16,
        test_fraction=0.4,
        pairs=100,
        flip_test=False,
    )
    config = dataclasses.replace(config, data=data, loss=InterTopK(scale=8.0, sub_centers=3))
    config = changed(config, {"augmentation.flip": 0.0})
    result = train(prepare(config), RunFolder(tmp_path / "run", config), Quiet())
    before, after = result.verifications[0], result.verifications[60]
    assert after["recall@1"] >= before["recall@1"] > 0
    assert after["auc"] > 0.9


SHAPED = np.linspace(0, 1, 24, dtype=np.float32).reshape(6, 4)


@pytest.mark.parametrize(
    ("array", "wanted"),
    [
        (SHAPED, SHAPED),
        (SHAPED.astype(np.float64), SHAPED),
        (SHAPED.astype(">f4"), SHAPED),
        (SHAPED.astype(np.float16), SHAPED),
        (np.asfortranarray(SHAPED), SHAPED),
        (SHAPED[..., None], SHAPED),
        ((SHAPED * 255).round().astype(np.uint8), SHAPED),
        (np.stack([SHAPED] * 3, axis=2), SHAPED),
    ],
)
def test_arrays_of_every_kind(array, wanted):
    for version in ((1, 0), (2, 0)):
        image = decode_array(npy(array, version), "a.npy")
        assert (image.shape, image.dtype) == ((6, 4, 3), np.uint8)
        np.testing.assert_allclose(image / 255, np.stack([wanted] * 3, axis=2), atol=0.003)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "is no .npy file"),
        (b"\x89PNG\r\n", "is no .npy file"),
        (pickle.dumps(SHAPED), "is no .npy file"),
        (npy(np.array([[{}]], object)), "holds Python objects; save uint8"),
        (npy(np.zeros((3, 3), np.int64)), "holds int64; save uint8, or floating-point"),
        (npy(np.zeros((3, 3), bool)), "holds bool"),
        (npy(np.zeros((3, 3), complex)), "holds complex128"),
        (npy(np.zeros((3, 3), "U2")), "holds <U2"),
        (npy(np.zeros((3, 3), [("a", "f4")])), "holds "),
        (npy(np.zeros(8, np.float32)), r"has shape \(8,\); save \[height, width\]"),
        (npy(np.zeros((2, 3, 4), np.float32)), r"has shape \(2, 3, 4\)"),
        (npy(np.zeros((0, 4), np.float32)), r"has shape \(0, 4\)"),
        (npy(SHAPED * 2), "holds 1.04.*; scale floating-point numbers to"),
        (npy(SHAPED - 0.5), "holds -0.5; scale"),
        (npy(np.full((2, 2), np.nan)), "holds nan; scale"),
        (npy(SHAPED)[:-1], "holds 95 bytes for shape"),
        (npy(SHAPED) + b"0", "holds 97 bytes for shape"),
        (npy(SHAPED)[:40], "is damaged"),
        (npy(SHAPED).replace(b"(6, 4)", b"(6,{}4"), "is damaged"),
        (npy(SHAPED)[:6] + b"\x09\0" + npy(SHAPED)[8:], "is of another .npy version"),
        (npy(SHAPED).replace(b"(6, 4), }     ", b"(99999999,9), "), "has shape|is damaged"),
    ],
)
def test_what_is_no_such_array_is_refused_by_one_line_that_names_it(content, what):
    with pytest.raises(InputError, match=f"^x/a.npy: {what}") as caught:
        decode_array(content, "x/a.npy")
    assert "\n" not in str(caught.value)
    assert "ndarray" not in str(caught.value)


def test_arrays_of_two_shapes_are_refused(tmp_path):
    folder = tones(tmp_path / "tones", speakers=2, each=2)
    np.save(folder / "speaker1" / "z.npy", np.zeros((24, 15), np.float32))
    with pytest.raises(InputError, match=r"speaker1/z.npy: is 24×15, and .*0.npy 24×16; make all"):
        load_images(open_source(folder), (24, 16))


def test_training_does_not_resize_arrays(tmp_path):
    folder = tones(tmp_path / "tones", speakers=2, each=2)
    config = DataConfig(source="auto", root=str(folder), image_size=32)
    with pytest.raises(
        InputError, match=r"24×16, .*set --data.image-size 24 --data.image-width 16"
    ):
        configured_source(config, 0)


def test_beside_images_arrays_are_left_out_and_said(tmp_path):
    """Features that lie beside their photos are no images."""
    folder = tones(tmp_path / "tones", speakers=2, each=2)
    picture = encode_png(np.zeros((20, 20, 3), np.uint8))
    for speaker in (0, 1):
        (folder / f"speaker{speaker}" / "face.png").write_bytes(picture)
    source = open_source(folder)
    assert len(source) == 2
    assert any(".npy (4)" in remark for remark in source.remarks)
