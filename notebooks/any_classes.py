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
# # Any classes: from a folder of images to neighbours, confusions and "new class"
#
# Nothing here knows what a face is. Train on most classes of a folder, then find, name and confuse
# images of classes that the network has never seen. It takes two minutes on two CPU cores.
#
# Set `FOLDER` to a folder or zip file of your own, with a folder of images for each class; or in a
# shell, `FOLDER=DIR PYTHONPATH=. python notebooks/any_classes.py`. The example is Omniglot:
# handwritten characters, twenty drawers each (Lake et al., Science 2015; MIT licence; get
# `images_background_small1.zip` from github.com/brendenlake/omniglot). Without it, symbols are
# drawn here. The pictures are also written to `runs/notebooks/any_classes/`.

# %%
import os
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image, ImageDraw

import arcface_jax
from arcface_jax.analysis.neighbours import nearest_classes
from arcface_jax.cosine import normalise_rows
from arcface_jax.data.in_memory import load_images
from arcface_jax.data.sources.folder import FolderSource
from arcface_jax.evaluation.few_shot import few_shot
from arcface_jax.evaluation.retrieval import retrieve
from arcface_jax.evaluation.search import search_candidates
from arcface_jax.figures.samples import Mark, contact_sheet, face_sheet
from arcface_jax.figures.style import save
from arcface_jax.losses import ArcFace
from arcface_jax.models.apply import linen_apply
from arcface_jax.models.embed import embed_images, make_embed_function
from arcface_jax.pixels import normalise
from arcface_jax.training import initial_state, make_step

try:
    from IPython.display import Image as Shown
except ImportError:  # run as a script
    Shown = None

PICTURES = pathlib.Path("runs/notebooks/any_classes")


def show(name, figure):
    (file,) = save(figure, PICTURES / name)
    return Shown(filename=str(file)) if Shown else file


def draw_symbols(folder, classes=120, each=20):
    """Each class is a smooth curve along seven places; each image moves them a little."""
    random, t = np.random.default_rng(0), np.linspace(0, 1, 9)[:, None]
    for number in range(classes):
        inside = folder / f"symbol_{number:03}"
        inside.mkdir(parents=True, exist_ok=True)
        places = random.uniform(5, 100, (7, 2))
        for image in range(each):
            moved = places + random.normal(0, 6, (7, 2)) + random.normal(0, 3, 2)
            middles = (moved[1:] + moved[:-1]) / 2
            bends = zip(middles[:-1], moved[1:-1], middles[1:], strict=True)
            curve = [(1 - t) ** 2 * a + 2 * t * (1 - t) * b + t**2 * c for a, b, c in bends]
            sheet = Image.new("L", (105, 105), 255)
            ImageDraw.Draw(sheet).line([*map(tuple, np.concatenate(curve))], 0, 4)
            sheet.save(inside / f"{image:02}.png")
    return folder


shared = pathlib.Path(arcface_jax.__file__).parents[2] / "shared" / "data"
folder = pathlib.Path(os.environ.get("FOLDER", shared / "omniglot_background_small1.zip"))
if not folder.exists():
    print(f"{folder} is not there: symbols are drawn instead")
    folder = draw_symbols(PICTURES / "symbols")

# %% [markdown]
# ## From the folder
#
# The last quarter of the classes is kept for the end: they are the new ones.

# %%
SIZE = 28
source = FolderSource(folder)
images, labels = load_images(source, (SIZE, SIZE)), np.asarray(source.labels)
names = [name.replace("images_background_small1/", "") for name in source.identity_names]
trained = 3 * len(names) // 4
train, new = np.flatnonzero(labels < trained), np.flatnonzero(labels >= trained)
print(f"{len(images):,} images; {trained} classes to train on, {len(names) - trained} new ones")

# %%
first = np.stack([np.flatnonzero(labels == one)[:10] for one in range(0, len(names), 25)])
show(
    "classes",
    contact_sheet(images[first], "Ten images each", [names[labels[row[0]]] for row in first]),
)

# %% [markdown]
# ## A network of your own, and ArcFace
#
# Any Linen, NNX or Equinox network will do. Images are turned and moved a little at random, for the
# classes are few; they are not mirrored, for a mirrored character is another one.

# %%
STEPS, BATCH, DIM = 600, 64, 64


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        for channels in (32, 64, 64):
            x = nn.Conv(channels, (3, 3), 2, padding=1, use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        x = nn.Dense(DIM)(x.reshape(x.shape[0], -1))
        return nn.BatchNorm(use_running_average=not train, momentum=0.9, use_scale=False)(x)


def jitter(image, key):
    angle, scale, shift = (jax.random.normal(one, (2,)) for one in jax.random.split(key, 3))
    turn, size = 0.12 * angle[0], 1.0 + 0.08 * scale
    matrix = jnp.array([[jnp.cos(turn), -jnp.sin(turn)], [jnp.sin(turn), jnp.cos(turn)]]) * size
    middle = (SIZE - 1) / 2
    places = jnp.stack(jnp.mgrid[:SIZE, :SIZE]) - middle
    places = jnp.einsum("ab,bhw->ahw", matrix, places) + middle + 1.2 * shift[:, None, None]
    sampled = jax.scipy.ndimage.map_coordinates(image[..., 0], places, order=1, cval=1.0)
    return jnp.repeat(sampled[..., None], 3, -1)


def prepare(images, keys):
    return jax.vmap(jitter)(normalise(images), keys)


net, loss = Net(), ArcFace(scale=16.0, margin=0.4, margin_warmup=0.5)


def untrained():
    return jax.jit(net.init)(jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 3)))


rate = optax.warmup_cosine_decay_schedule(0.0, 2e-3, STEPS // 10, STEPS)
optimiser = optax.adamw(rate, weight_decay=1e-2)
state = initial_state(
    untrained(), loss, optimiser, jax.random.key(1), num_classes=trained, embedding_size=DIM
)
step = jax.jit(
    make_step(linen_apply(net), loss, optimiser, prepare=prepare, total_steps=STEPS),
    donate_argnums=0,
)
random = np.random.default_rng(0)
for number in range(STEPS):
    rows = random.choice(train, BATCH)
    state, metrics = step(state, jax.random.key(2), images[rows], labels[rows])
    if number % 150 == 149:
        print(f"step {number + 1}: loss {metrics['loss']:.2f}, accuracy {metrics['accuracy']:.0%}")

# %% [markdown]
# ## New classes: recall@1
#
# An image of a new class is the query, all other images of the new classes are the gallery. The
# untrained network is what the shapes alone give.

# %%
embed = make_embed_function(net)


def unit_embeddings(variables):
    return np.asarray(normalise_rows(jnp.asarray(embed_images(embed, variables, images[new]))))


embeddings, of_new = unit_embeddings(state.backbone_variables), labels[new]
for name, found in (("untrained", unit_embeddings(untrained())), ("trained", embeddings)):
    numbers = retrieve(found, of_new).numbers()
    print(
        f"{name}: recall@1 {numbers['recall@1']:.1%}, recall@5 {numbers['recall@5']:.1%}, "
        f"MAP@R {numbers['map@r']:.1%}"
    )

# %%
episodes = few_shot(embeddings, of_new, ways=5, shots=1, seed=0)
print(f"5-way 1-shot: {np.mean(episodes):.1%}")

# %% [markdown]
# ## Neighbours
#
# Three images of new classes at the left, an easy one, a hard one and a harder one, each with the
# seven nearest others: green is the same class, red another.

# %%
nearest = search_candidates(embeddings, embeddings, k=8).indices
wrong_ones = (of_new[nearest[:, 1:]] != of_new[:, None]).sum(1)
order = np.argsort(wrong_ones, kind="stable")
queries = order[[int(share * len(order)) for share in (0.3, 0.8, 0.95)]]
shown = nearest[queries]
short = [name.rpartition("/")[2].replace("character", "char. ").replace("_", " ") for name in names]
marks = [
    None
    if column == 0
    else Mark("same", True)
    if of_new[one] == of_new[row[0]]
    else Mark("other", False)
    for row in shown
    for column, one in enumerate(row)
]
show(
    "neighbours",
    face_sheet(
        images[new][shown.ravel()],
        [[short[label]] for label in of_new[shown.ravel()]],
        "Classes never seen in training: an image, and its seven nearest",
        marks,
        columns=8,
    ),
)

# %% [markdown]
# ## Confusions
#
# The pairs of new classes whose centres are nearest, an image of each side by side.

# %%
classes = np.unique(of_new)
numbered = np.searchsorted(classes, of_new)
centres = np.stack([embeddings[of_new == one].mean(0) for one in classes])
centres /= np.linalg.norm(centres, axis=1, keepdims=True)
pairs = nearest_classes(embeddings, numbered, centres, threshold=0.5, count=6)
titles = [
    f"{names[classes[one]]} and {names[classes[other]]}: cosine {cosine:.2f}"
    for one, other, cosine in zip(pairs.first, pairs.second, pairs.cosine, strict=True)
]
print("\n".join(titles))
examples = [
    [
        np.flatnonzero(of_new == classes[one])[number]
        for one in (first, second)
        for number in range(4)
    ]
    for first, second in zip(pairs.first, pairs.second, strict=True)
]
show("confusions", contact_sheet(images[new][np.array(examples)], "Classes most alike", titles))

# %% [markdown]
# ## Name it, or say "new class"
#
# Half of the new classes are enrolled with five images each; all their other images are asked for,
# and those of the other half, which nobody enrolled. The answer is the nearest centre, or "new
# class" below a threshold. It is chosen on the classes of the training: cosines of their images to
# the nearest centre of another class, which 5 % may exceed.

# %%
known = classes[: len(classes) // 2]
enrolled = np.concatenate([np.flatnonzero(of_new == one)[:5] for one in known])
asked = np.setdiff1d(np.arange(len(new)), enrolled)


def centres_of(embeddings, labels, classes):
    means = np.stack([embeddings[labels == one].mean(0) for one in classes])
    return means / np.linalg.norm(means, axis=1, keepdims=True)


seen = np.asarray(
    normalise_rows(jnp.asarray(embed_images(embed, state.backbone_variables, images[train])))
)
to_others = seen @ centres_of(seen, labels[train], range(trained)).T
to_others[np.arange(len(train)), labels[train]] = -1
sample = random.choice(trained, len(known), replace=False)  # as many centres as are enrolled
threshold = np.quantile(to_others[:, sample].max(1), 0.95)
cosines = embeddings[asked] @ centres_of(embeddings[enrolled], of_new[enrolled], known).T
answers = np.where(cosines.max(1) >= threshold, known[cosines.argmax(1)], -1)
is_known = np.isin(of_new[asked], known)
right = np.mean(answers[is_known] == of_new[asked][is_known])
refused, called_new = (np.mean(answers[part] == -1) for part in (is_known, ~is_known))
print(
    f"threshold {threshold:.2f}; of enrolled classes {right:.1%} of the images are named rightly, "
    f"{refused:.1%} called new; of classes that nobody enrolled {called_new:.1%} are called new"
)
some = np.concatenate(
    [random.choice(np.flatnonzero(part), 6, replace=False) for part in (is_known, ~is_known)]
)
show(
    "named",
    face_sheet(
        images[new][asked[some]],
        [[short[answers[one]] if answers[one] >= 0 else "new class"] for one in some],
        "Named, or called new",
        [
            Mark("right", True)
            if answers[one] == (of_new[asked[one]] if is_known[one] else -1)
            else Mark("wrong", False)
            for one in some
        ],
        columns=6,
    ),
)
