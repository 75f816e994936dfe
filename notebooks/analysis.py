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
# # What a margin does
#
# The ArcFace layer step by step, the geometry of its margin, and the target-logit analysis: first
# as numbers, then as pictures. No network is trained here.
#
# Open it in Jupyter with jupytext, or run it as a script from the repository: `PYTHONPATH=. python
# notebooks/analysis.py`. The pictures are also written to `runs/notebooks/analysis/`.

# %%
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from arcface_jax import margins
from arcface_jax.analysis import geometry, target_logits
from arcface_jax.analysis.class_gaps import class_gaps, even_circle_probability
from arcface_jax.analysis.inversion import cosine_loss, invert
from arcface_jax.analysis.layer import layer_steps
from arcface_jax.figures import geometry as geometry_figures
from arcface_jax.figures.layer import CLASS_WEIGHTS, EMBEDDINGS, LABELS, layer
from arcface_jax.figures.margins import TITLES, loss_gradient, target_logit_curves
from arcface_jax.figures.style import save
from arcface_jax.models import registry
from arcface_jax.models.batch_statistics import with_statistics

try:
    from IPython.display import Image
except ImportError:  # run as a script
    Image = None


def show(name, figure):
    (file,) = save(figure, pathlib.Path("runs/notebooks/analysis") / name)
    return Image(filename=str(file)) if Image else file


# %% [markdown]
# ## The layer
#
# One embedding, three classes. Without a margin the embedding is right by 21° and its loss is
# almost zero. The margin asks for 28.6°, so there is still something to learn.

# %%
for m in (0.0, 0.2, 0.5):
    steps = layer_steps(EMBEDDINGS, CLASS_WEIGHTS, LABELS, margin=m, scale=16.0)
    print(
        f"m = {m}: logits {np.round(steps.logits[0], 2)}, p of the true class "
        f"{steps.probabilities[0, 0]:.3f}"
    )
print(f"angles to the three centres: {np.round(steps.degrees[0], 1)}")

# %%
show("layer", layer())

# %% [markdown]
# ## Decision boundaries
#
# An example of class 1 is satisfied where psi(cos θ1) > cos θ2. For ArcFace the boundary is θ2 = θ1
# + m, a margin that is the same angle everywhere.

# %%
theta1 = np.radians([10, 30, 60, 90, 120, 140])
print("width θ2 − θ1 of the margin, degrees, at θ1 =", np.degrees(theta1).round().astype(int))
for name in ("softmax", "sphereface", "cosface", "arcface", "cm1", "cm2"):
    width = np.degrees(geometry.boundary(margins.NAMED_MARGINS[name], theta1) - theta1)
    print(f"  {TITLES[name]:24}", np.round(width, 1))

# %%
show("decision_boundaries", geometry_figures.decision_boundaries())

# %%
show("decision_boundaries_cosine", geometry_figures.decision_boundaries_cosine())

# %% [markdown]
# ## The arc between two classes
#
# Two centres are α apart. Each class's region ends somewhere between them. ArcFace leaves an arc of
# m for any α; CosFace leaves more between close centres, SphereFace less. If the centres are closer
# than a margin allows (nan), not even a class's own centre satisfies it.

# %%
alpha = np.radians([20, 40, 60, 90, 120, 180])
print("arc, degrees, at α =", np.degrees(alpha).round().astype(int))
for name, psi in margins.NAMED_MARGINS.items():
    print(f"  {TITLES[name]:24}", np.round(np.degrees(geometry.margin_arc(psi, alpha)), 1))
assert abs(geometry.margin_arc(margins.arcface(0.5), math.radians(75)) - 0.5) < 1e-5

# %%
show("geometry", geometry_figures.geometry())

# %%
show("circle_arcs", geometry_figures.circle_arcs())

# %%
show("sphere_caps", geometry_figures.sphere_caps())

# %% [markdown]
# ## The target logit
#
# The value that replaces the true class's cosine, over the angles of a training run, and its slope:
# the slope is the pull on the embedding.

# %%
degrees = np.array([20.0, 60.0, 90.0, 100.0])
for name, psi in margins.NAMED_MARGINS.items():
    curve = target_logits.target_curve(psi, degrees)
    print(
        f"{TITLES[name]:24} psi {np.round(curve.value, 4)}  slope {np.round(curve.angle_slope, 3)}"
    )

# %%
show("target_logits", target_logit_curves())

# %% [markdown]
# ## Past π
#
# Where θ + m passes π the formula rises again. Its exact gradient then pushes the embedding *away*
# from its class; the straight-through gradient never does. The sign does not depend on the scale or
# on the number of classes.

# %%
for rule in margins.PAST_PI:
    for gradient in margins.GRADIENTS:
        psi = margins.arcface(0.5, past_pi=rule, gradient=gradient)
        (pull,) = target_logits.loss_curve(psi, np.array([170.0])).gradient
        away = target_logits.repulsive_intervals(psi)
        print(
            f"{rule:8} {gradient:16} dL/dθ at 170°: {pull:+7.2f}   away from its class: "
            f"{np.round(away, 1).tolist()}"
        )

# %%
show("loss_gradient", loss_gradient())

# %% [markdown]
# ## Why a large scale or margin can fail from scratch
#
# The gradients of all cosines of an example add up to s(1 − p)(1 − d psi/d cos θ). For a softmax
# and for CosFace the sum is zero: the pull on the true class equals the push on the others. For
# ArcFace it is positive above 90° − m/2, where every network starts, so the embedding and all
# classes are pushed apart, whatever the rule past π. The straight-through gradient and `easy`,
# which has no margin above 90°, avoid this; a margin that grows slowly delays it.

# %%
degrees = np.array([30.0, 60.0, 75.7, 90.0, 120.0, 150.0])
print("θ, degrees      ", degrees)
for title, psi in {
    "ArcFace": margins.arcface(0.5),
    "ArcFace, easy": margins.arcface(0.5, past_pi="easy"),
    "straight-through": margins.arcface(0.5, gradient="straight_through"),
    "CosFace": margins.cosface(0.35),
}.items():
    print(f"{title:16}", np.round(target_logits.common_push(psi, degrees), 3))

# %% [markdown]
# ## Eight people on a circle
#
# A network with a two-dimensional embedding puts each class on an arc of the circle. The margin
# widens the empty arcs between them, as far as the circle allows: eight classes are 45° apart, so m
# must be below 2π/8 = .785.

# %%
for margin in (0.0, 0.5, 0.785, 1.0):
    best = even_circle_probability(8, margins.arcface(margin), scale=16.0)
    print(f"m = {margin:5.3f}: the true class gets at best {best:.1%}")

# %%
labels = np.repeat(np.arange(8), 50)
angles = np.radians(45 * labels + np.random.default_rng(0).normal(0, 2, 400))
gaps = class_gaps(np.stack([np.cos(angles), np.sin(angles)], axis=1), labels, quantile=0.02)
# Degrees. For trained features, with pictures: python -m experiments.toy
print({name: round(value, 1) for name, value in gaps.numbers().items()})

# %% [markdown]
# ## A face out of a model
#
# Gradient descent pulls the embedding to a target and each batch normalisation's statistics to the
# running ones. Such a face always fools its own model, so ask another one: python -m
# experiments.invert

# %%
backbone = registry.create("iresnet18", embedding_size=16, width=4)  # a trained one shows faces
start = 0.5 * jax.random.normal(jax.random.key(0), (4, 32, 32, 3))
network = with_statistics(backbone, backbone.init(jax.random.key(1), start))
targets = jax.random.normal(jax.random.key(2), (4, 16))
found = invert(
    network, cosine_loss(targets), jnp.clip(start, -1, 1), key=jax.random.key(3), steps=30
)
print(f"loss {found.losses[0]:.2f} → {found.losses[-1]:.2f}")
