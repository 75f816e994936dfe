import io

import numpy as np
import pytest

from arcface_jax.errors import InputError
from arcface_jax.figures.features import Features, features_figure


def panel(dim, name="a loss"):
    centres = np.eye(dim)
    labels = np.repeat(np.arange(dim), 4)
    return Features(
        name, centres[labels], labels, -centres[labels[:3]], labels[:3], centres, "gap 7.0°"
    )


@pytest.mark.parametrize("dim", [2, 3])
def test_every_feature_and_centre_is_drawn(dim):
    figure = features_figure([panel(dim), panel(dim, "another")])
    figure.savefig(io.BytesIO(), format="png")
    for axes, name in zip(figure.axes, ("a loss", "another"), strict=True):
        assert axes.get_title() == f"{name}\ngap 7.0°"
        assert len(axes.lines) == dim
    scatters = [
        found for found in figure.axes[0].collections if len(found.get_facecolor()) in (3, 4 * dim)
    ]
    assert len(scatters) == 2
    if dim == 2:
        outer, inner = (np.linalg.norm(found.get_offsets(), axis=1) for found in scatters)
        assert outer == pytest.approx(np.ones(8))
        assert (inner < 0.9).all()
        assert len(np.unique(scatters[0].get_facecolor(), axis=0)) == 2


def test_other_dimensions_cannot_be_drawn():
    with pytest.raises(InputError, match=r"a loss: embeddings of shape \(16, 4\)"):
        features_figure([panel(4)])
    with pytest.raises(InputError, match="panels"):
        features_figure([])
