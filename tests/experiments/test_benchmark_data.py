"""The benchmark of the input pipeline: what it reads, what it compares with, what it writes."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from arcface_jax.data.decode import decode, resize
from arcface_jax.data.synthetic import SyntheticFaces
from arcface_jax.errors import InputError
from experiments.benchmark import __main__ as benchmark
from experiments.benchmark.data import (
    DataBenchmark,
    opencv_decoder,
    pillow_decoder,
    run_data_benchmark,
    source_ratios,
    write_images,
)

IMAGES = "--identities 4 --images-per-identity 4 --stored-sizes 24 --image-size 16"
TURNS = "--batch 4 --batches 4 --threads 2 --rounds 2"


def test_all_are_measured_on_both_formats(tmp_path, type_command):
    status, printed, error = type_command(
        benchmark.main, "data", *IMAGES.split(), *TURNS.split(), "--output", tmp_path
    )
    assert status == 0, error
    saved = json.loads((tmp_path / "records.json").read_text())
    measured = {(record["format"], record["case"]) for record in saved["records"]}
    assert measured >= {
        (kind, case) for kind in ("recordio", "folder") for case in ("arcface-jax", "Pillow")
    }
    assert all(
        len(r["images_per_second"]) == 2 and min(r["images_per_second"]) > 0
        for r in saved["records"]
    )
    assert "RecordIO, 24×24 to 16×16, beside decoding alone" in saved["ratios"]
    assert "folder of JPEGs, 24×24 to 16×16, beside Pillow" in saved["ratios"]
    assert "Images a second" in printed
    assert {"grain", "pillow"} <= set(saved["machine"])


@pytest.mark.parametrize("kind", ["recordio", "folder"])
def test_the_files_hold_the_faces(tmp_path, kind):
    faces = SyntheticFaces(2, 3, image_size=32)
    source = write_images(faces, tmp_path / "files", kind, 95)
    assert len(source) == 6
    assert source.encoded(0)[:3] == b"\xff\xd8\xff"
    close = [np.abs(source[n].astype(int) - faces[n]).mean() for n in range(6)]
    assert max(close) < 6  # JPEG's loss, not another picture


def jpeg(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=95)
    return buffer.getvalue()


@pytest.mark.parametrize("size", [32, 20])
@pytest.mark.parametrize("module", ["PIL", "cv2"])
def test_the_loops_read_the_same_pixels(module, size):
    pytest.importorskip(module)
    encoded = jpeg(SyntheticFaces(1, 1, image_size=32)[0])
    read = {"PIL": pillow_decoder, "cv2": opencv_decoder}[module](size)
    expected = resize(decode(encoded, "face"), size)
    assert read(encoded).shape == (size, size, 3)
    assert np.abs(read(encoded).astype(int) - expected).mean() < 4


def test_ratios_are_of_speeds():
    records = [
        {"case": "arcface-jax", "images_per_second": [200.0, 20.0]},
        {"case": "decoding alone", "images_per_second": [400.0, 20.0]},
    ]
    (ratio,) = source_ratios("files", records).values()
    assert (ratio.low, ratio.median, ratio.high) == (0.5, 0.75, 1.0)


def test_a_batch_of_more_images_than_there_are_is_refused():
    with pytest.raises(InputError, match="batch is 128"):
        run_data_benchmark(DataBenchmark(identities=1))
