"""Every loss beside a few lines of PyTorch, value and gradient, in float64.

The PyTorch versions follow the papers: arccos where the papers have angles, in-place indices, no
guard. They agree to the size of this library's guards (1e-6 under the root of the sine); the
source's own formula agrees to rounding.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from arcface_jax.cosine import arcface_logits, row_norms
from arcface_jax.losses import (
    AdaFaceState,
    ArcFace,
    CurricularFaceState,
    adaface_loss,
    angular_triplet_loss,
    combination_loss,
    curricularface_loss,
    elastic_margins,
    elasticface_loss,
    inter_penalty,
    intra_penalty,
    magface_loss,
    margin_softmax_loss,
    normface_loss,
    softmax_loss,
    sphereface2_loss,
    uniface_loss,
)
from arcface_jax.margins import (
    arcface,
    cm1,
    cm2,
    combined,
    cosface,
    normface,
    sphereface,
    sphereface_original,
)
from arcface_jax.training.config import HeadConfig
from arcface_jax.training.state import initial_state
from arcface_jax.training.step import make_step

torch = pytest.importorskip("torch")
functional = torch.nn.functional

ROWS, CLASSES, DIM, SCALE = 8, 5, 6, 12.0


@pytest.fixture(scope="module")
def data():
    generator = np.random.default_rng(0)
    embeddings = generator.normal(size=(ROWS, DIM)) * generator.uniform(0.5, 3.0, size=(ROWS, 1))
    weights, labels = generator.normal(size=(CLASSES, DIM)), generator.integers(0, CLASSES, ROWS)
    weights[labels[0]] -= 3 * embeddings[0]  # one row past θ + m = π
    return embeddings, weights, labels, np.float64(0.7)


def cosines(e, w):
    return functional.normalize(e) @ functional.normalize(w).T


def own(cosine, y):
    return cosine[torch.arange(len(y)), y]


def cross_entropy(cosine, y, target, scale=SCALE):
    logits = cosine.clone()
    logits[torch.arange(len(y)), y] = target
    return functional.cross_entropy(scale * logits, y, reduction="none")


def torch_margin(target_of_angle, smoothing=0.0):
    def loss(e, w, y, _):
        cosine = cosines(e, w)
        logits = cosine.clone()
        logits[torch.arange(ROWS), y] = target_of_angle(torch.acos(own(cosine, y)))
        return functional.cross_entropy(
            SCALE * logits, y, reduction="none", label_smoothing=smoothing
        )

    return loss


def torch_source(e, w, y, _):
    cosine = cosines(e, w)
    phi = cosine * math.cos(0.5) - torch.sqrt(1.0 - cosine**2 + 1e-6) * math.sin(0.5)
    one_hot = functional.one_hot(y, CLASSES)
    return functional.cross_entropy(
        SCALE * (one_hot * phi + (1 - one_hot) * cosine), y, reduction="none"
    )


def torch_straight_through(e, w, y, _):
    cosine = cosines(e, w)
    with torch.no_grad():
        added = torch.cos(torch.acos(own(cosine, y)) + 0.5) - own(cosine, y)
    return cross_entropy(cosine, y, own(cosine, y) + added)


def torch_triplet(e, y, margin=0.35, hard=False):
    theta = torch.acos(
        (functional.normalize(e) @ functional.normalize(e).T).clamp(-1 + 1e-12, 1 - 1e-12)
    )
    losses = []
    for a in range(ROWS):
        same = (y == y[a]) & (torch.arange(ROWS) != a)
        positives, negatives = theta[a][same], theta[a][y != y[a]].sort().values
        if len(positives) == 0:
            losses.append(0.0 * theta[a].sum())
            continue
        if hard:
            losses.append(functional.relu(positives.max() + margin - negatives[0]))
            continue
        chosen = [
            negatives[negatives > p][0] if (negatives > p).any() else negatives[-1]
            for p in positives
        ]
        losses.append(functional.relu(positives + margin - torch.stack(chosen)).mean())
    return torch.stack(losses)


def torch_intra(e, w, y):
    return torch.acos(own(cosines(e, w), y)) / math.pi


def torch_inter(w, y):
    theta = torch.acos(cosines(w, w).clamp(-1 + 1e-12, 1 - 1e-12))
    off = theta * (1 - torch.eye(CLASSES, dtype=theta.dtype))
    return -off[y].sum(dim=1) / (math.pi * (CLASSES - 1))


def torch_combination(e, w, y, _):
    softmax = torch_margin(lambda t: torch.cos(t + 0.5))(e, w, y, None)
    return softmax + torch_intra(e, w, y) + 2 * torch_inter(w, y) + 3 * torch_triplet(e, y)


def torch_sphereface2(e, w, y, b):
    g = 2 * ((cosines(e, w) + 1) / 2) ** 3 - 1
    one_hot = functional.one_hot(y, CLASSES)
    positive = 0.7 / SCALE * functional.softplus(-SCALE * (g - 0.4) - b)
    negative = 0.3 / SCALE * functional.softplus(SCALE * (g + 0.4) + b)
    return (one_hot * positive + (1 - one_hot) * negative).sum(dim=1)


def torch_uniface(e, w, y, b):
    cosine, one_hot = cosines(e, w), functional.one_hot(y, CLASSES)
    positive = functional.softplus(-(SCALE * (cosine - 0.4) - b))
    return (one_hot * positive + 2.0 * (1 - one_hot) * functional.softplus(SCALE * cosine - b)).sum(
        dim=1
    )


def torch_adaface(e, w, y, _):
    norms = e.norm(dim=1).clamp(1e-3, 100).detach()
    mean, std = 0.3 * norms.mean() + 0.7 * 2.0, 0.3 * norms.std() + 0.7 * 0.5
    quality = (0.333 * (norms - mean) / (std + 1e-3)).clamp(-1, 1)
    cosine = cosines(e, w).clamp(-1 + 1e-3, 1 - 1e-3)
    theta = (torch.acos(own(cosine, y)) - 0.4 * quality).clamp(1e-3, math.pi - 1e-3)
    return cross_entropy(cosine, y, torch.cos(theta) - 0.4 - 0.4 * quality)


def torch_magface(e, w, y, _, easy=True):
    a = e.norm(dim=1).clamp(1.0, 6.0)
    m = 0.45 + (0.8 - 0.45) / 5.0 * (a - 1.0)
    cosine = cosines(e, w)
    mine = own(cosine, y)
    with_margin = torch.cos(torch.acos(mine) + m)
    if easy:
        target = torch.where(mine > 0, with_margin, mine)
    else:
        target = torch.where(mine > torch.cos(math.pi - m), with_margin, mine - m * torch.sin(m))
    return cross_entropy(cosine, y, target) + 35 * (1 / a + a / 36.0)


def torch_curricularface(e, w, y, _):
    cosine = cosines(e, w)
    mine = own(cosine, y)
    target = torch.where(
        mine > math.cos(math.pi - 0.5),
        torch.cos(torch.acos(mine) + 0.5),
        mine - 0.5 * math.sin(0.5),
    )
    t = (0.99 * 0.3 + 0.01 * mine.mean()).detach()
    modulated = torch.where(cosine > target[:, None], cosine * (t + cosine), cosine)
    return cross_entropy(modulated, y, target)


def torch_elasticface(e, w, y, _):
    with jax.enable_x64(True):
        valid = jnp.ones(ROWS, bool)
        drawn = elastic_margins(jax.random.key(0), jnp.zeros(ROWS), valid, mean=0.5, std=0.05)
    return torch_margin(lambda t: torch.cos(t + torch.tensor(np.array(drawn))))(e, w, y, None)


def torch_spherefaces_own(theta):
    turns = torch.floor(4 * theta / math.pi).detach()
    return (5 * torch.cos(theta) + (-1) ** turns * torch.cos(4 * theta) - 2 * turns) / 6


def torch_sphereface_in_full(e, w, y, _):
    cosine = cosines(e, w)
    logits = cosine.clone()
    logits[torch.arange(ROWS), y] = torch_spherefaces_own(torch.acos(own(cosine, y)))
    return functional.cross_entropy(e.norm(dim=1, keepdim=True) * logits, y, reduction="none")


def margin(psi, **options):
    return lambda e, w, y, _: margin_softmax_loss(e, w, y, psi=psi, scale=SCALE, **options)


def source_logits(e, w, y, _):
    logits, _ = arcface_logits(e, w, y, scale=SCALE)
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=1)[:, 0]


def cos(function):
    return torch_margin(lambda t: torch.cos(function(t)))


# name: (this library, PyTorch, tolerance of values, tolerance of gradients)
PAIRS = {
    "the source's formula": (source_logits, torch_source, 1e-11, 1e-10),
    "arcface is the source's formula": (margin(arcface()), torch_source, 1e-11, 1e-10),
    "softmax on the sphere": (margin(normface()), cos(lambda t: t), 1e-11, 1e-10),
    "cosface": (margin(cosface()), torch_margin(lambda t: torch.cos(t) - 0.35), 1e-11, 1e-10),
    "cosface, smoothed": (
        margin(cosface(), label_smoothing=0.1),
        torch_margin(lambda t: torch.cos(t) - 0.35, 0.1),
        1e-11,
        1e-10,
    ),
    "arcface": (margin(arcface()), cos(lambda t: t + 0.5), 2e-5, 2e-4),
    "straight-through": (
        margin(arcface(gradient="straight_through")),
        torch_straight_through,
        2e-5,
        2e-4,
    ),
    "linear": (
        margin(arcface(past_pi="linear")),
        torch_margin(
            lambda t: torch.where(t > math.pi - 0.5, t.cos() - 0.5 * math.sin(0.5), (t + 0.5).cos())
        ),
        2e-5,
        2e-4,
    ),
    "easy": (
        margin(arcface(past_pi="easy")),
        torch_margin(lambda t: torch.where(t < math.pi / 2, torch.cos(t + 0.5), torch.cos(t))),
        2e-5,
        2e-4,
    ),
    "clip": (
        margin(arcface(past_pi="clip")),
        cos(lambda t: (t.clamp(0.0141422, math.pi - 0.0141422) + 0.5).clamp(1e-4, math.pi - 1e-4)),
        2e-5,
        2e-4,
    ),
    "reflect": (
        margin(arcface(past_pi="reflect")),
        torch_margin(
            lambda t: torch.where(t > math.pi - 0.5, -2 - torch.cos(t + 0.5), torch.cos(t + 0.5))
        ),
        2e-5,
        2e-4,
    ),
    "sphereface": (margin(sphereface()), cos(lambda t: 1.35 * t), 2e-5, 2e-4),
    "sphereface's own": (
        margin(sphereface_original()),
        torch_margin(torch_spherefaces_own),
        2e-5,
        2e-4,
    ),
    "sphereface's own, embeddings not normalised": (
        lambda e, w, y, _: margin_softmax_loss(
            e, w, y, psi=sphereface_original(), scale=row_norms(e)
        ),
        torch_sphereface_in_full,
        2e-5,
        2e-4,
    ),
    "cm1": (margin(cm1()), torch_margin(lambda t: torch.cos(t + 0.3) - 0.2), 2e-5, 2e-4),
    "cm2": (margin(cm2()), torch_margin(lambda t: torch.cos(0.9 * t + 0.4) - 0.15), 2e-5, 2e-4),
    "m1 = 2": (
        margin(combined(2, 0.3, 0.1)),
        torch_margin(lambda t: torch.cos(2 * t + 0.3) - 0.1),
        2e-5,
        2e-4,
    ),
    "plain softmax": (
        lambda e, w, y, b: softmax_loss(e, w, b * jnp.arange(CLASSES), y),
        lambda e, w, y, b: functional.cross_entropy(
            e @ w.T + b * torch.arange(CLASSES), y, reduction="none"
        ),
        1e-11,
        1e-10,
    ),
    "normface": (
        normface_loss,
        lambda e, w, y, b: functional.cross_entropy(
            torch.exp(b) * cosines(e, w), y, reduction="none"
        ),
        1e-11,
        1e-10,
    ),
    "intra": (
        lambda e, w, y, _: intra_penalty(e, w, y),
        lambda e, w, y, _: torch_intra(e, w, y),
        2e-6,
        1e-5,
    ),
    "inter": (
        lambda e, w, y, _: inter_penalty(w, y),
        lambda e, w, y, _: torch_inter(w, y),
        2e-6,
        1e-5,
    ),
    "triplet": (
        lambda e, w, y, _: angular_triplet_loss(e, y),
        lambda e, w, y, _: torch_triplet(e, y),
        2e-6,
        1e-5,
    ),
    "triplet, hard": (
        lambda e, w, y, _: angular_triplet_loss(e, y, mining="hard"),
        lambda e, w, y, _: torch_triplet(e, y, hard=True),
        2e-6,
        1e-5,
    ),
    "combination": (
        lambda e, w, y, _: combination_loss(
            e, w, y, scale=SCALE, intra_weight=1.0, inter_weight=2.0, triplet_weight=3.0
        ),
        torch_combination,
        2e-5,
        2e-4,
    ),
    "sphereface2": (
        lambda e, w, y, b: sphereface2_loss(e, w, y, b, scale=SCALE),
        torch_sphereface2,
        1e-11,
        1e-10,
    ),
    "uniface": (
        lambda e, w, y, b: uniface_loss(e, w, y, b, scale=SCALE, negative_weight=2.0),
        torch_uniface,
        1e-11,
        1e-10,
    ),
    "adaface": (
        lambda e, w, y, _: adaface_loss(
            e, w, y, AdaFaceState(jnp.float64(2.0), jnp.float64(0.5)), ema=0.3, scale=SCALE
        )[0],
        torch_adaface,
        1e-11,
        1e-10,
    ),
    "magface": (
        lambda e, w, y, _: magface_loss(e, w, y, lower_norm=1.0, upper_norm=6.0, scale=SCALE),
        torch_magface,
        2e-5,
        2e-4,
    ),
    "magface, linear": (
        lambda e, w, y, _: magface_loss(
            e, w, y, lower_norm=1.0, upper_norm=6.0, scale=SCALE, past_pi="linear"
        ),
        lambda *arguments: torch_magface(*arguments, easy=False),
        2e-5,
        2e-4,
    ),
    "curricularface": (
        lambda e, w, y, _: curricularface_loss(
            e, w, y, CurricularFaceState(jnp.float64(0.3)), scale=SCALE
        )[0],
        torch_curricularface,
        2e-5,
        2e-4,
    ),
    "elasticface": (
        lambda e, w, y, _: elasticface_loss(e, w, y, jax.random.key(0), std=0.05, scale=SCALE),
        torch_elasticface,
        2e-5,
        2e-4,
    ),
}


@pytest.mark.accelerator
@pytest.mark.parametrize("name", PAIRS)
def test_value_and_gradient(name, data):
    ours, theirs, value_tolerance, gradient_tolerance = PAIRS[name]
    embeddings, weights, labels, number = data
    leaves = [torch.tensor(x, requires_grad=True) for x in (embeddings, weights, number)]
    wanted = theirs(*leaves[:2], torch.tensor(labels), leaves[2])
    (wanted * torch.arange(1.0, ROWS + 1)).sum().backward()

    def weighted(e, w, b):
        loss = ours(e, w, jnp.asarray(labels), b)
        return (loss * jnp.arange(1.0, ROWS + 1)).sum(), loss

    with jax.enable_x64(True):
        gradients, loss = jax.jit(jax.grad(weighted, argnums=(0, 1, 2), has_aux=True))(
            embeddings, weights, number
        )
        assert loss.dtype == jnp.float64
    np.testing.assert_allclose(
        loss, wanted.detach().numpy(), rtol=value_tolerance, atol=value_tolerance
    )
    for ours_gradient, leaf in zip(gradients, leaves, strict=True):
        theirs_gradient = np.zeros(leaf.shape) if leaf.grad is None else leaf.grad.numpy()
        np.testing.assert_allclose(
            ours_gradient, theirs_gradient, rtol=gradient_tolerance, atol=gradient_tolerance
        )


@pytest.mark.accelerator
def test_steps_of_training(data):
    """A linear network and ArcFace under SGD with momentum and weight decay."""
    _, weights, labels, _ = data
    generator = np.random.default_rng(1)
    images, kernel = generator.normal(size=(3, ROWS, 4)), generator.normal(size=(4, DIM))
    apply = lambda params, statistics, images: (images @ params["kernel"], statistics)  # noqa: E731
    optimiser = optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(0.1, 0.9))
    loss, key = ArcFace(scale=SCALE), jax.random.key(0)
    head = HeadConfig(precision="highest")  # on an accelerator it would be bfloat16
    step = jax.jit(make_step(apply, loss, optimiser, head=head))
    with jax.enable_x64(True):
        start = {"backbone": {"kernel": kernel}, "head": {"class_weights": weights}}
        start = jax.tree.map(jnp.asarray, start)
        sizes = {"num_classes": CLASSES, "embedding_size": DIM}
        state = initial_state({"params": start["backbone"]}, loss, optimiser, key, **sizes)
        state = dataclasses.replace(state, params=start, optimiser_state=optimiser.init(start))
        for batch in images:
            state, metrics = step(state, key, batch, labels)
    leaves = [torch.tensor(x, requires_grad=True) for x in (kernel, weights)]
    theirs = torch.optim.SGD(leaves, 0.1, momentum=0.9, weight_decay=5e-4)
    for batch in images:
        theirs.zero_grad()
        wanted = torch_source(torch.tensor(batch) @ leaves[0], leaves[1], torch.tensor(labels), 0)
        wanted.mean().backward()
        theirs.step()
    assert float(metrics["loss"]) == pytest.approx(wanted.mean().item(), rel=1e-10)
    ours = (state.params["backbone"]["kernel"], state.params["head"]["class_weights"])
    for one, leaf in zip(ours, leaves, strict=True):
        np.testing.assert_allclose(one, leaf.detach().numpy(), atol=1e-10)
