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
# # Quick start
#
# A network, the ArcFace loss and an optax optimiser in a page of JAX: train on faces of 200 people,
# then tell apart people whom the network has never seen. Nothing is downloaded; a minute on two CPU
# cores.
#
# To train for real, `python -m experiments.train` does all this with checkpoints, schedules,
# several devices, reports.
#
# Open it in Jupyter with jupytext, or run it as a script from the repository: `PYTHONPATH=. python
# notebooks/quick_start.py`. The pictures are also written to `runs/notebooks/quick_start/`.

# %%
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax

from arcface_jax import expected_initial_loss, margin_softmax_loss
from arcface_jax.cosine import cosine_logits
from arcface_jax.data.pairs import draw_pairs
from arcface_jax.data.synthetic import SyntheticFaces
from arcface_jax.evaluation.verification import combine_flip, pair_similarities, verify_similarities
from arcface_jax.figures.evaluation import score_histogram
from arcface_jax.figures.ridges import angle_ridges
from arcface_jax.figures.samples import contact_sheet
from arcface_jax.figures.style import save
from arcface_jax.margins import arcface
from arcface_jax.models.embed import embed_images, make_embed_function, mirror
from arcface_jax.models.registry import create
from arcface_jax.pixels import normalise

try:
    from IPython.display import Image
except ImportError:  # run as a script
    Image = None


def show(name, figure):
    (file,) = save(figure, pathlib.Path("runs/notebooks/quick_start") / name)
    return Image(filename=str(file)) if Image else file


# %% [markdown]
# ## Faces
#
# Drawn ones: who it is sets the shape of the face, each picture its pose, light, glasses, hat and
# blur. A folder of your own is `arcface_jax.data.sources.folder.FolderSource`.

# %%
IDENTITIES, IMAGES, SIZE = 200, 20, 24
people = SyntheticFaces(IDENTITIES, IMAGES, image_size=SIZE)
strangers = SyntheticFaces(
    100, IMAGES, image_size=SIZE, first_identity=IDENTITIES
)  # not one of the people above
images, labels = people.render(np.arange(len(people))), people.labels
by_person = images.reshape(IDENTITIES, IMAGES, SIZE, SIZE, 3)
show("people", contact_sheet(by_person[:5, :10], "Five people, ten pictures of each"))

# %% [markdown]
# ## Network, loss, step
#
# The class weights, one row an identity, are trained like any other parameter and thrown away at
# the end. The margin is an argument of the step: it grows over the first half, since a full margin
# on a network that knows nothing scatters the classes.

# %%
SCALE, STEPS, BATCH = 16.0, 600, 64
backbone = create("iresnet18", embedding_size=64, width=8)
variables = jax.jit(backbone.init)(jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 3)))
params = {
    "backbone": variables["params"],
    "class_weights": 0.01 * jax.random.normal(jax.random.key(1), (IDENTITIES, 64)),
}
statistics = variables["batch_stats"]
rate = optax.warmup_cosine_decay_schedule(0.0, 0.1, STEPS // 5, STEPS)
optimiser = optax.chain(
    optax.clip_by_global_norm(5.0), optax.add_decayed_weights(5e-4), optax.sgd(rate, momentum=0.9)
)
state = optimiser.init(params)


@jax.jit
def step(params, statistics, state, images, labels, margin):
    def loss(params):
        variables = {"params": params["backbone"], "batch_stats": statistics}
        embeddings, changed = backbone.apply(
            variables, normalise(images), train=True, mutable=["batch_stats"]
        )
        losses = margin_softmax_loss(
            embeddings, params["class_weights"], labels, psi=arcface(margin), scale=SCALE
        )
        cosines = cosine_logits(embeddings, params["class_weights"])[
            jnp.arange(len(labels)), labels
        ]
        return losses.mean(), (
            changed["batch_stats"],
            jnp.degrees(jnp.arccos(jnp.clip(cosines, -1.0, 1.0))),
        )

    (value, (statistics, theta)), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    change, state = optimiser.update(gradient, state, params)
    return optax.apply_updates(params, change), statistics, state, value, theta


# %% [markdown]
# ## Training
#
# The first loss is known before anything is trained, give or take one, for an untrained network
# gives everybody much the same embedding. When it is far off, something is wrong with labels,
# pixels or scale. The loss goes up while the margin grows: what counts is θ.

# %%
rng = np.random.default_rng(0)
theta = {}
print(f"first loss expected near {expected_initial_loss(IDENTITIES, 0.0, SCALE, 64):.2f}")
for number in range(STEPS):
    chosen = rng.choice(len(images), BATCH, replace=False)
    batch = np.where(rng.random((BATCH, 1, 1, 1)) < 0.5, mirror(images[chosen]), images[chosen])
    margin = 0.5 * min(1.0, 2 * number / STEPS)
    params, statistics, state, value, angles = step(
        params, statistics, state, batch, labels[chosen], margin
    )
    if number % 100 == 0 or number == STEPS - 1:
        theta[number] = np.asarray(angles)
        print(
            f"step {number:4}  margin {margin:.2f}  loss {value:6.3f}  median θ "
            f"{np.median(theta[number]):5.1f}°"
        )

# %% [markdown]
# θ, the angle between an embedding and its class weight, begins near 90° and shrinks as the network
# learns.

# %%
show("theta", angle_ridges({"ArcFace": theta}))

# %% [markdown]
# ## People it has never seen
#
# Only the embeddings count now: two pictures show the same person where their cosine is high.

# %%
faces = strangers.render(np.arange(len(strangers)))
pairs = draw_pairs(strangers.labels, 6000, seed=0)
embed = make_embed_function(backbone)


def verify(variables):
    unit = combine_flip(
        embed_images(embed, variables, faces), embed_images(embed, variables, mirror(faces))
    )
    similarities = pair_similarities(unit[pairs.first], unit[pairs.second])
    return similarities, verify_similarities(similarities, pairs.same)


_, before = verify(variables)
similarities, after = verify({"params": params["backbone"], "batch_stats": statistics})
for name, result in (("untrained", before), ("trained", after)):
    print(
        f"{name:10} accuracy {result.accuracy:.1%} ± {result.accuracy_std:.1%} over folds, AUC "
        f"{result.auc:.3f}"
    )

# %%
show("similarities", score_histogram(similarities, pairs.same, after.threshold))
