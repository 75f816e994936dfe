# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Margins and losses
#
# Every margin of this library is a function psi from the cosine of the true class to the cosine
# that takes its place in a softmax. This notebook draws each margin, shows the line of code for it,
# and then tries every loss.
#
# Open it in Jupyter with jupytext, or run it as a script from the repository: `PYTHONPATH=. python
# notebooks/losses.py`. The pictures are also written to `runs/notebooks/losses/`.

# %%
import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from arcface_jax import losses, margins
from arcface_jax.cosine import arcface_logits, row_norms
from arcface_jax.figures.margins import FAMILIES, margin_curves, rule_curves
from arcface_jax.figures.style import save
from arcface_jax.losses import subcenter

try:
    from IPython.display import Image
except ImportError:  # run as a script
    Image = None


def show(name, figure):
    (file,) = save(figure, pathlib.Path("runs/notebooks/losses") / name)
    return Image(filename=str(file)) if Image else file


# %% [markdown]
# ## ArcFace
#
# `arcface_logits` is the paper's head: cosines of normalised embeddings and class weights, 0.5 rad
# added to the angle of the true class, all times the scale.

# %%
key_embeddings, key_weights = jax.random.split(jax.random.key(0))
embeddings = jax.random.normal(key_embeddings, (8, 512))
class_weights = 0.05 * jax.random.normal(key_weights, (1000, 512))
labels = jnp.arange(8)

logits, unit_embeddings = arcface_logits(embeddings, class_weights, labels, margin=0.5, scale=64.0)
loss = losses.margin_softmax_loss(
    embeddings, class_weights, labels, psi=margins.arcface(0.5), scale=64.0
)
print(f"logits {logits.shape}, loss of each example {np.round(np.asarray(loss, float), 1)}")
print(f"expected of an untrained head: {losses.expected_initial_loss(1000, 0.5, 64.0, 512):.1f}")

# %% [markdown]
# ## Every margin
#
# The combined margin is $\psi(\cos\theta) = \cos(m_1\theta + m_2) - m_3$. The slope multiplies the
# gradient of the loss.

# %%
named = {
    "softmax_on_sphere()": margins.softmax_on_sphere(),
    "sphereface(1.35)": margins.sphereface(1.35),
    "arcface(0.5)": margins.arcface(0.5),
    "cosface(0.35)": margins.cosface(0.35),
    "cm1()": margins.cm1(),
    "cm2()": margins.cm2(),
    "sphereface_original()": margins.sphereface_original(4, weight=5.0),
    "expface(0.7)": margins.expface(0.7),
    "x2softmax()": margins.x2softmax(),
}
show("margins", margin_curves(named, "Margins"))

# %%
degrees = np.array([20, 30, 60, 90, 100])
print("psi at" + "".join(f"{d:>9}°" for d in degrees))
for name, psi in named.items():
    print(f"{name:22}" + " ".join(f"{value:+9.4f}" for value in psi(jnp.cos(jnp.deg2rad(degrees)))))

# %% [markdown]
# Any mixture, and any function of your own:

# %%
mixtures = {
    "combined(1.1, 0.2, 0.1)": margins.combined(1.1, 0.2, 0.1),
    "your own: c - 0.3 (1 - c)": lambda c: c - 0.3 * (1 - c),
    "annealed(arcface(0.5), 1.0)": margins.annealed(margins.arcface(0.5), 1.0),
}
show("mixtures", margin_curves(mixtures, "Mixtures"))

# %% [markdown]
# ## Past π
#
# Where $m_1\theta + m_2$ passes π the formula rises again and would push an embedding nearly
# opposite its class still farther. Projects handle this differently; `past_pi` names the choice.
# `gradient="straight_through"` replaces the slope by 1.

# %%
show("rules_arcface", rule_curves(FAMILIES["arcface"]))  # arcface(past_pi=...)

# %%
show("rules_sphereface", rule_curves(FAMILIES["sphereface"]))  # sphereface(past_pi=...)

# %%
show("rules_cm1", rule_curves(FAMILIES["cm1"]))  # cm1(past_pi=...)

# %%
show("rules_cm2", rule_curves(FAMILIES["cm2"]))  # cm2(past_pi=...)

# %%
show("rules_m1_4", rule_curves(FAMILIES["m1_4"]))  # combined(4, 0, 0, past_pi=...)

# %%
print("at cosθ = −0.95, margin 0.5      psi     slope")
for rule in margins.PAST_PI:
    for gradient in margins.GRADIENTS:
        psi = margins.arcface(0.5, past_pi=rule, gradient=gradient)
        print(f"{rule:8} {gradient:16} {psi(-0.95):+10.6f} {jax.grad(psi)(-0.95):+8.4f}")

# %% [markdown]
# SphereFace phases its margin in: a weight λ falls during training.

# %%
annealing = {
    f"weight={weight}": margins.sphereface_original(4, weight=weight) for weight in (1000, 50, 5, 0)
}
show("annealing", margin_curves(annealing, "sphereface_original(4, weight=λ)", (-1.0, 17.0)))

# %%
print(
    "λ at steps 0, 100, 1000, 10000:",
    margins.sphereface_annealing(jnp.array([0, 100, 1000, 10000])),
)

# %% [markdown]
# ## Margins that follow the data
#
# AdaFace reads the image's quality from the length of its embedding; MagFace gives longer
# embeddings larger margins.

# %%
state = losses.AdaFaceState(mean=jnp.float32(20.0), std=jnp.float32(3.0))
by_quality = {
    f"adaface_psi, length {n}": losses.adaface_psi(jnp.float32(n), state) for n in (5.0, 20.0, 35.0)
}
show("adaface", margin_curves(by_quality, "AdaFace: lengths 20 ± 3 are average"))

# %%
by_length = {
    f"magface_psi, length {n}": losses.magface_psi(jnp.float32(n)) for n in (10.0, 60.0, 110.0)
}
show("magface", margin_curves(by_length, "MagFace"))

# %% [markdown]
# ## Every loss
#
# A loss is a frozen dataclass of its numbers. A notebook calls it, `--loss.name` and `--loss.FIELD`
# set it, and `make_step` trains with it. `init_params` makes its own parameters, `init` its state.
# Losses are returned per example; take the mean yourself. A label of −1 is padding.

# %%
key = jax.random.key(1)
context = losses.Context(key=key, class_counts=jnp.ones(1000))
for name, kind in losses.LOSSES.items():
    loss = kind()
    params = loss.init_params(key, 1000, 512)
    out = loss(params, loss.init_state(1000), embeddings, labels // 2, context)
    assert out.loss.shape == (8,)
    assert jnp.isfinite(out.loss).all()
    print(f"{name:22}{float(out.loss.mean()):8.3f}   {loss}"[:110])

# %% [markdown]
# The same as functions, with their options:

# %%
bias = jnp.zeros(1000)
adaface_state, curricular_state = losses.adaface_init(), losses.curricularface_init()
subcentres = jax.random.normal(key, (1000, 3, 512))
of_each = margins.arcface(margins.class_wise(jnp.linspace(0.3, 0.6, 1000), labels))
args = (embeddings, class_weights, labels)

values = {
    "softmax with bias": losses.softmax_loss(embeddings, class_weights, bias, labels),
    "NormFace, learnt scale": losses.normface_loss(
        *args, jnp.log(losses.minimum_scale(1000, 0.99))
    ),
    "ArcFace": losses.margin_softmax_loss(*args),
    "ArcFace, 100 classes at a time": losses.margin_softmax_loss(*args, chunk=100),
    "ArcFace, label smoothing 0.1": losses.margin_softmax_loss(*args, label_smoothing=0.1),
    "ArcFace, filter at 0.1": losses.margin_softmax_loss(*args, filter_threshold=0.1),
    "ArcFace, a margin for each class": losses.margin_softmax_loss(*args, psi=of_each),
    "ArcFace, three sub-centres": losses.margin_softmax_loss(embeddings, subcentres, labels),
    "Softmax + Intra": losses.combination_loss(*args, psi=margins.normface(), intra_weight=1.0),
    "Softmax + Inter": losses.combination_loss(*args, psi=margins.normface(), inter_weight=1.0),
    "ArcFace + triplet": losses.combination_loss(
        embeddings, class_weights, labels // 2, triplet_weight=1.0
    ),
    "triplet": losses.angular_triplet_loss(embeddings, labels // 2, margin=0.35),
    "SphereFace2": losses.sphereface2_loss(*args, jnp.float32(losses.sphereface2_bias(1000))),
    "UniFace": losses.uniface_loss(*args, jnp.float32(losses.uniface_bias(1000))),
    "Circle": losses.margin_softmax_loss(
        *args,
        psi=lambda cosine: losses.circle_psi(cosine, 0.25),
        eta=lambda cosine: losses.circle_eta(cosine, 0.25),
        scale=256.0,
    ),
    "UniTSFace's pairs": losses.uss_loss(embeddings, labels // 2, jnp.float32(25.0)),
    "AdaFace": losses.adaface_loss(*args, adaface_state)[0],
    "MagFace": losses.magface_loss(*args),
    "CurricularFace": losses.curricularface_loss(*args, curricular_state)[0],
    "ElasticFace": losses.elasticface_loss(*args, key),
    "ElasticFace+": losses.elasticface_loss(*args, key, plus=True, std=0.0175),
}
for name, value in values.items():
    assert value.shape == (8,)
    assert jnp.isfinite(value).all()
    print(f"{name:34}{float(value.mean()):8.3f}")

# %% [markdown]
# Pass the state in and get it back; keep it in the training state beside the parameters, as
# `make_step` does.

# %%
adaface = losses.AdaFace()
params, state = {"class_weights": class_weights}, adaface.init()
for step in range(3):
    state = adaface(params, state, embeddings, labels).state
    print(f"step {step}: {jax.tree.map(lambda number: round(float(number), 2), state)}")
print(f"lengths in this batch: {float(row_norms(embeddings).mean()):.2f}")

# %% [markdown]
# Your own loss is a class with a psi. Train with it by `--loss.name my_file:Mine`:


# %%
@dataclasses.dataclass(frozen=True)
class Rising(losses.MarginSoftmax):
    """cos θ − m·(1 − cos θ): a margin that is larger the farther the embedding is."""

    m: float = 0.3

    def psi(self, context):
        return lambda cosine: cosine - self.m * (1.0 - cosine)


print(f"{Rising(m=0.2)}: loss {Rising(m=0.2)(params, {}, embeddings, labels).loss.mean():.3f}")

# %% [markdown]
# Sub-centres clean a training set: count the examples nearest to each centre, keep the dominant
# centre, and drop images more than 75° from it. (Random embeddings are all noise.)

# %%
counts = subcenter.subcenter_counts(embeddings, subcentres, labels)
centres = subcenter.dominant_centres(subcentres, counts)
print("to keep:", np.asarray(subcenter.within_angle(embeddings, centres, labels)))

# %% [markdown]
# ## Before training
#
# The loss that an untrained network should have, and the smallest scale at which a softmax over
# cosines can be confident.

# %%
for classes in (10_572, 85_742, 360_232):
    initial = losses.expected_initial_loss(classes, margins.arcface(0.5), 64.0, 512)
    scale = losses.minimum_scale(classes, 0.9)
    print(
        f"{classes:7,} identities: loss at the start {initial:.2f}, scale for 90% at least "
        f"{scale:.1f}"
    )
