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
# A network, the ArcFace loss and an optax optimiser in a page of JAX. Train on faces of 200 people,
# then tell apart people that the network has never seen. It downloads nothing and takes a minute on
# two CPU cores.
#
# For real training, `python -m experiments.train` adds checkpoints, schedules, several devices and
# reports.
#
# Open it in Jupyter with jupytext, or run it as a script from the repository: `PYTHONPATH=. python
# notebooks/quick_start.py`. The pictures are also written to `runs/notebooks/quick_start/`.

# %%
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax

from arcface_jax.cosine import cosine_logits
from arcface_jax.data.augment import Augmentation, augment
from arcface_jax.data.pairs import draw_pairs
from arcface_jax.data.synthetic import SyntheticFaces
from arcface_jax.evaluation.verification import combine_flip, pair_similarities, verify_similarities
from arcface_jax.figures.evaluation import score_histogram
from arcface_jax.figures.ridges import angle_ridges
from arcface_jax.figures.samples import contact_sheet
from arcface_jax.figures.style import save
from arcface_jax.losses import ArcFace
from arcface_jax.models.apply import linen_apply
from arcface_jax.models.embed import embed_images, make_embed_function, mirror
from arcface_jax.models.registry import create
from arcface_jax.pixels import normalise
from arcface_jax.training import initial_state, make_step

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
# Drawn faces: the person sets the shape; each picture has its own pose, light, glasses, hat and
# blur. For a folder of your own use `arcface_jax.data.sources.folder.FolderSource`.

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
# A loss is an object. Here it is ArcFace; its margin grows over the first half of the run, because
# a full margin scatters the classes of an untrained network. Its class weights, one row per
# identity, train like any other parameter and are dropped at the end. The step is a pure function
# of a state, a key and a batch. Any network (Linen, NNX, Equinox) and any optax optimiser will do.

# %%
STEPS, BATCH, SIZE_OF_EMBEDDING = 600, 64, 64
loss = ArcFace(scale=16.0, margin=0.5, margin_warmup=0.5)
print(loss)
backbone = create("iresnet18", embedding_size=SIZE_OF_EMBEDDING, width=8)
variables = jax.jit(backbone.init)(jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 3)))
rate = optax.warmup_cosine_decay_schedule(0.0, 0.1, STEPS // 5, STEPS)
optimiser = optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(rate, momentum=0.9))
state = initial_state(
    variables,
    loss,
    optimiser,
    jax.random.key(1),
    num_classes=IDENTITIES,
    embedding_size=SIZE_OF_EMBEDDING,
)


def prepare(images, keys):
    return normalise(augment(images, keys, Augmentation(flip=0.5)))


step = jax.jit(
    make_step(linen_apply(backbone), loss, optimiser, clip=5.0, prepare=prepare, total_steps=STEPS),
    donate_argnums=0,
)
embed = make_embed_function(backbone)


def network(state):
    return {"params": state.params["backbone"], "batch_stats": state.batch_stats}


def angles(state, some=slice(None, None, 10)):
    """Degrees between the embeddings of every tenth picture and their own class weights."""
    embeddings = embed_images(embed, network(state), images[some])
    cosines = cosine_logits(embeddings, state.params["head"]["class_weights"])
    return np.degrees(np.arccos(np.clip(cosines, -1, 1)))[np.arange(len(cosines)), labels[some]]


# %% [markdown]
# ## Training
#
# You know the first loss in advance, give or take one: an untrained network gives everybody nearly
# the same embedding. If it is far off, something is wrong with labels, pixels or scale. The loss
# rises while the margin grows, so watch θ.

# %%
rng = np.random.default_rng(0)
theta = {0: angles(state)}
first = ArcFace(scale=16.0, margin=0.0).expected_initial_loss(IDENTITIES, SIZE_OF_EMBEDDING)
print(f"first loss expected near {first:.2f}, without its margin yet")
untrained = jax.tree.map(np.asarray, network(state))  # the step takes the state's memory
for number in range(1, STEPS + 1):
    chosen = rng.choice(len(images), BATCH, replace=False)
    state, metrics = step(state, jax.random.key(2), images[chosen], labels[chosen])
    if number == 1 or number % 100 == 0:
        print(
            f"step {number:4}  loss {metrics['loss']:6.3f}  accuracy {metrics['accuracy']:4.0%}  "
            f"mean θ {metrics['theta']:5.1f}°"
        )
    if number % 100 == 0:
        theta[number] = angles(state)

# %% [markdown]
# θ, the angle between an embedding and its class weight, begins near 90° and shrinks as the network
# learns.

# %%
show("theta", angle_ridges({"ArcFace": theta}))

# %% [markdown]
# ## People it has never seen
#
# Only the embeddings count now: two pictures show the same person if their cosine is high.

# %%
faces = strangers.render(np.arange(len(strangers)))
pairs = draw_pairs(strangers.labels, 6000, seed=0)


def verify(variables):
    unit = combine_flip(
        embed_images(embed, variables, faces), embed_images(embed, variables, mirror(faces))
    )
    similarities = pair_similarities(unit[pairs.first], unit[pairs.second])
    return similarities, verify_similarities(similarities, pairs.same)


_, before = verify(untrained)
similarities, after = verify(network(state))
for name, result in (("untrained", before), ("trained", after)):
    print(
        f"{name:10} accuracy {result.accuracy:.1%} ± {result.accuracy_std:.1%} over folds, AUC "
        f"{result.auc:.3f}"
    )

# %%
show("similarities", score_histogram(similarities, pairs.same, after.threshold))
