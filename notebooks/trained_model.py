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
# # A trained model on one page
#
# Import a face model that others trained, embed a set of faces, verify it, and see whom it
# confuses.
#
# The model is the MobileFaceNet of MobileFaceNet_Pytorch (trained with ArcFace on CASIA-WebFace).
# The faces are the ORL Database of Faces of AT&T Laboratories Cambridge: 40 people with 10 grey
# images each. Any checkpoint that `import_torch` reads and any folder of people will do. The
# pictures are also written to `runs/notebooks/trained_model/`.

# %%
import pathlib
import sys

import numpy as np

import arcface_jax
from arcface_jax.data.in_memory import load_images
from arcface_jax.data.pairs import all_pairs
from arcface_jax.data.sources.folder import FolderSource
from arcface_jax.evaluation.roc import area_under_curve, roc_curve, tar_at_far
from arcface_jax.evaluation.search import search_candidates
from arcface_jax.evaluation.verification import combine_flip, hardest_pairs, pair_similarities
from arcface_jax.figures.evaluation import pair_sheet, roc_figure, score_histogram
from arcface_jax.figures.samples import contact_sheet
from arcface_jax.figures.style import save
from arcface_jax.interop.torch import import_torch
from arcface_jax.models.embed import mirror

try:
    from IPython.display import Image as Shown
except ImportError:  # run as a script
    Shown = None


def show(name, figure):
    (file,) = save(figure, pathlib.Path("runs/notebooks/trained_model") / name)
    return Shown(filename=str(file)) if Shown else file


data = pathlib.Path(arcface_jax.__file__).parents[2] / "shared" / "data"
if not data.is_dir():
    sys.exit(
        print(
            f"Nothing to show: put mobilefacenet_casia_arcface.ckpt and orl_faces.zip into {data}"
        )
    )

# %% [markdown]
# ## The model
#
# This needs no PyTorch and runs nothing in the file. The model carries the pixel format it expects.

# %%
model = import_torch(data / "mobilefacenet_casia_arcface.ckpt")
print(model.source, model.image_size, model.pixels)

# %% [markdown]
# ## The faces
#
# ORL's images are not aligned to the network's training template, but their middle shows about the
# same part. Every command takes the middle unless you add `--detect`.

# %%
source = FolderSource(data / "orl_faces.zip")
images = load_images(source, model.image_size)
show(
    "faces", contact_sheet(images[:20].reshape(2, 10, *images.shape[1:]), "Two of the forty people")
)

# %% [markdown]
# ## Embeddings
#
# One unit vector per image: the embeddings of the image and its mirror image, added. The commands
# do the same, so `python -m experiments.evaluate --checkpoint mobilefacenet_casia_arcface.ckpt
# --sets orl_faces.zip` gives the numbers below.

# %%
embed = model.embedder(batch_size=50)
embeddings = combine_flip(embed(images), embed(mirror(images)))
print(embeddings.shape)

# %% [markdown]
# ## Verification: are two images of one person?
#
# All 79,800 pairs. Each has a cosine, and a threshold decides.

# %%
pairs = all_pairs(source.labels)
similarities = pair_similarities(embeddings[pairs.first], embeddings[pairs.second])
roc = roc_curve(similarities, pairs.same)
auc = area_under_curve(roc)
print(
    f"AUC {auc:.4f}, TAR {tar_at_far(roc, 1e-2):.3f} at FAR 1e-2, {tar_at_far(roc, 1e-3):.3f} at "
    "FAR 1e-3"
)

# %%
show("scores", score_histogram(similarities, pairs.same))

# %%
show("roc", roc_figure({"MobileFaceNet": roc}))

# %% [markdown]
# ## Nearest neighbours
#
# Some images with their four most similar others. The first column is the image itself.

# %%
questions = np.arange(3, 400, 67)
found = search_candidates(embeddings, embeddings[questions], k=5)
rows = [source.identity_names[source.labels[index]] for index in questions]
show("neighbours", contact_sheet(images[found.indices], "An image and its neighbours", rows))

# %%
nearest = search_candidates(embeddings, embeddings, k=2).indices[:, 1]
right = np.mean(source.labels[nearest] == source.labels)
print(f"The most alike other image shows the same person for {right:.1%} of the images.")

# %% [markdown]
# The images whose nearest neighbour is somebody else, each beside that neighbour.

# %%
(mistaken,) = np.nonzero(source.labels[nearest] != source.labels)
taken_for = nearest[mistaken]
cosines = pair_similarities(embeddings[mistaken], embeddings[taken_for])
if len(mistaken):
    show(
        "mistaken",
        pair_sheet(images[mistaken], images[taken_for], cosines, "Taken for another person"),
    )

# %% [markdown]
# ## Mistakes
#
# The different people that the model finds most alike, and the images of one person that it finds
# least alike.

# %%
accepts, rejects = hardest_pairs(similarities, pairs.same, count=5)
show(
    "alike",
    pair_sheet(
        images[pairs.first[accepts]],
        images[pairs.second[accepts]],
        similarities[accepts],
        "Different people",
    ),
)

# %%
show(
    "unlike",
    pair_sheet(
        images[pairs.first[rejects]],
        images[pairs.second[rejects]],
        similarities[rejects],
        "One person",
    ),
)
