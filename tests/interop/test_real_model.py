"""A network that its authors trained and we did not: the same embeddings, and the accuracy they
lead to.
"""

import numpy as np
import pytest
from PIL import Image

from arcface_jax.data.pairs import all_pairs
from arcface_jax.data.sources.folder import FolderSource
from arcface_jax.evaluation.roc import area_under_curve, roc_curve, tar_at_far
from arcface_jax.evaluation.verification import combine_flip, pair_similarities
from arcface_jax.interop.torch import import_torch
from arcface_jax.models.embed import mirror


@pytest.fixture(scope="module")
def model(shared_data):
    return import_torch(shared_data / "mobilefacenet_casia_arcface.ckpt")


@pytest.fixture(scope="module")
def embed(model):
    return model.embedder(batch_size=50)


def test_reproduces_the_authors_embeddings(model, embed, shared_data):
    with np.load(shared_data / "mobilefacenet_reference.npz") as reference:
        embeddings, expected = embed(reference["images"]), reference["embeddings"]
    assert model.image_size == (112, 96)
    assert np.abs(embeddings - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.slow
def test_verifies_the_orl_faces(embed, shared_data):
    """All 79,800 pairs of the 400 images; embedding and mirrored embedding side by side."""
    source = FolderSource(shared_data / "orl_faces.zip")
    cropped = [Image.fromarray(source[index][8:104, 5:87]) for index in range(len(source))]
    images = np.stack(
        [np.asarray(image.resize((96, 112), Image.Resampling.BILINEAR)) for image in cropped]
    )
    unit = combine_flip(embed(images), embed(mirror(images)), "concatenate")
    pairs = all_pairs(source.labels)
    similarities = pair_similarities(unit[pairs.first], unit[pairs.second])
    roc = roc_curve(similarities, pairs.same)
    assert len(pairs) == 79_800
    assert area_under_curve(roc) == pytest.approx(0.9943, abs=5e-4)
    assert tar_at_far(roc, 1e-2) == pytest.approx(0.943, abs=3e-3)
    assert tar_at_far(roc, 1e-3) == pytest.approx(0.866, abs=5e-3)
    assert similarities[pairs.same].mean() == pytest.approx(0.655, abs=3e-3)
    assert similarities[~pairs.same].mean() == pytest.approx(0.098, abs=3e-3)
