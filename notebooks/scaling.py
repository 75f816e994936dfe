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
# # The head at scale
#
# With a million identities the classifier is the problem, not the network: N × C logits, a gradient
# as large as the class weights, and an optimiser's copy of them. Here are the ways out, each
# compared with the plain loss: chunks, an update without gradient, classes split over devices, a
# sample of the classes. The loss is one function, `margin_softmax_loss`. One argument says how to
# loop over the classes; every loss object built on it takes it too.
#
# Open it in Jupyter with jupytext, or run it as a script from the repository: `PYTHONPATH=. python
# notebooks/scaling.py`. It simulates eight devices on the CPU; remove that line on a machine with
# accelerators. The picture is also written to `runs/notebooks/scaling/`.

# %%
import functools
import pathlib

import jax

jax.config.update("jax_num_cpu_devices", 8)  # before anything is computed

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from arcface_jax import margin_softmax_loss
from arcface_jax.cosine import row_norms
from arcface_jax.figures.benchmark import planned_memory
from arcface_jax.figures.style import save
from arcface_jax.heads import (
    RowSgd,
    add_classes,
    class_means,
    drop_classes,
    fused_head_step,
    hard_classes,
    init_head,
    partition_recall,
    sample_classes,
    shard_classes,
    unshard_classes,
)
from arcface_jax.heads.shards import shard_rows
from arcface_jax.heads.traffic import collective_bytes
from arcface_jax.training.head_plan import HeadSize, compiled_memory, predicted_memory

try:
    from IPython.display import Image
except ImportError:  # run as a script
    Image = None


def show(name, figure):
    (file,) = save(figure, pathlib.Path("runs/notebooks/scaling") / name)
    return Image(filename=str(file)) if Image else file


# %% [markdown]
# ## What a step needs
#
# Computed for D = 512, a batch of 512 and SGD with momentum, on one device. Only the fused head
# needs no more than the weights and their momentum; bfloat16 halves these. `python -m
# experiments.plan 29000000 --compile` prints the same for any size.

# %%
HEADS = {
    "dense": ("dense", "float32"),
    "chunked": ("chunked", "float32"),
    "fused": ("fused", "float32"),
    "fused, bfloat16": ("fused", "bfloat16"),
}
COUNTS = [10_000, 100_000, 1_000_000, 10_000_000, 29_000_000, 100_000_000]
plans = {
    name: {
        count: predicted_memory(HeadSize(head, count, dtype=dtype)).total / 2**30
        for count in COUNTS
    }
    for name, (head, dtype) in HEADS.items()
}
print("GiB" + " " * 15 + "".join(f"{count:>13,}" for count in COUNTS))
for name, plan in plans.items():
    print(f"{name:18}" + "".join(f"{plan[count]:13.2f}" for count in COUNTS))

# %%
show("planned_memory", planned_memory(plans, device=80.0))

# %% [markdown]
# The compiler's own plan for 29 million identities on one device. The program is compiled from
# shapes alone and never run.

# %%
plan = compiled_memory(HeadSize("fused", 29_000_000, dtype="bfloat16"))
print(f"29,000,000 identities × 512 in bfloat16, planned by XLA: {plan.total / 2**30:.1f} GiB")

# %% [markdown]
# ## In chunks
#
# The same loss and gradients up to rounding, without ever holding all logits.

# %%
CLASSES, DIM, BATCH = (
    10_007,
    64,
    64,
)  # a prime number of classes, to be split over eight devices below
keys = jax.random.split(jax.random.key(0), 4)
embeddings = jax.random.normal(keys[0], (BATCH, DIM))
class_weights = jax.random.normal(keys[1], (CLASSES, DIM))
labels = jax.random.randint(keys[2], (BATCH,), 0, CLASSES)


def mean_of(loss, **options):
    return jax.jit(
        jax.value_and_grad(lambda e, w: loss(e, w, labels, **options).mean(), argnums=(0, 1))
    )


def difference(a, b):
    return max(
        float(jnp.abs(x - y).max())
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


dense = mean_of(margin_softmax_loss)
chunked = mean_of(margin_softmax_loss, chunk=1024)
exact = dense(embeddings, class_weights)
print(
    f"loss {exact[0]:.4f}; chunked differs by "
    f"{difference(exact, chunked(embeddings, class_weights)):.1e} at most"
)
for name, function in (("dense", dense), ("chunked", chunked)):
    memory = function.lower(embeddings, class_weights).compile().memory_analysis()
    print(
        f"{name:8} works with {memory.temp_size_in_bytes / 2**20:6.1f} MiB besides arguments and "
        "gradients"
    )

# %% [markdown]
# ## Over devices
#
# Each device holds an eighth of the classes. Devices gather the embeddings and sum the partition
# function. Logits never travel, so the traffic does not depend on the number of classes.

# %%
mesh = Mesh(np.array(jax.devices()), ("classes",))


def sharded(num_classes):
    loss = functools.partial(
        margin_softmax_loss, chunk=2048, axis_name="classes", num_classes=num_classes
    )
    each = jax.shard_map(
        loss, mesh=mesh, in_specs=(P("classes"), P("classes"), P("classes")), out_specs=P("classes")
    )
    return jax.jit(jax.value_and_grad(lambda e, w: each(e, w, labels).mean(), argnums=(0, 1)))


shards = shard_classes(class_weights, 8)
value, (of_embeddings, of_shards) = sharded(CLASSES)(embeddings, shards.reshape(-1, DIM))
gathered = (value, (of_embeddings, unshard_classes(of_shards.reshape(shards.shape), CLASSES)))
print(f"eight devices differ from one by {difference(exact, gathered):.1e} at most")
for count in (CLASSES, 100_003):
    rows = jax.ShapeDtypeStruct((8 * shard_rows(count, 8), DIM), jnp.float32)
    sent = collective_bytes(sharded(count).lower(embeddings, rows).compile().as_text())
    print(f"{count:>7,} classes: bytes sent {dict(sent)}")

# %% [markdown]
# ## Without a gradient of the weights
#
# The fused step returns losses, gradients by the embeddings, and new weights. It forms, uses and
# drops each chunk's gradient. The state is donated and updated in place.

# %%
optimiser = RowSgd(momentum=0.9, weight_decay=5e-4)
step = jax.jit(
    functools.partial(fused_head_step, optimiser=optimiser, chunk=2048), donate_argnums=0
)
state = init_head(0.1 * class_weights, optimiser)
for number in range(10):
    found = step(state, embeddings, labels, 0.01)
    state = found.state
    if number in (0, 9):
        shape = found.embedding_gradients.shape
        print(f"step {number}: loss {found.loss.mean():.3f}, by embeddings {shape}")

# %% [markdown]
# In bfloat16 an update smaller than half of the last digit is lost, weight decay above all.
# Stochastic rounding keeps it on average. Over ten steps, the rows of classes outside the batch
# shrink like this:

# %%
absent = np.setdiff1d(np.arange(CLASSES), labels)


def shrinkage(before, after):
    lengths = [row_norms(head.class_weights[absent]) for head in (before, after)]
    return float((1 - lengths[1] / lengths[0]).mean())


def ten_steps(dtype, key=None):
    head, start = (init_head(0.1 * class_weights, optimiser, dtype=dtype) for _ in range(2))
    for number in range(10):
        rounding = None if key is None else jax.random.fold_in(key, number)
        head = step(head, embeddings, labels, 0.01, rounding_key=rounding).state
    return shrinkage(start, head)


print(f"float32                      {ten_steps(jnp.float32):.2e}")
print(f"bfloat16, rounded to nearest {ten_steps(jnp.bfloat16):.2e}")
print(f"bfloat16, rounded at random  {ten_steps(jnp.bfloat16, jax.random.key(7)):.2e}")

# %% [markdown]
# ## Some of the classes
#
# Partial FC draws classes at random. Once the network has learnt something, the nearest classes
# hold more of the softmax. Here the embeddings lie at a cosine of 0.6 to their own centre.

# %%
near = 0.6 * class_weights[labels] + 0.8 * embeddings
for rate in (0.01, 0.1, 0.3):
    random = sample_classes(keys[3], labels, num_classes=CLASSES, rate=rate)
    nearest = hard_classes(near, class_weights, labels, count=int(rate * CLASSES))
    held = [
        float(partition_recall(near, class_weights, labels, sample).mean())
        for sample in (random, nearest)
    ]
    print(
        f"{rate:4.0%} of the classes: of the exact sum {held[0]:.1%} at random, {held[1]:.1%} of "
        "the nearest"
    )

# %% [markdown]
# ## More and fewer identities
#
# New identities start at the mean of their embeddings; a dropped identity's momentum is dropped
# too.

# %%
newcomers = jax.random.normal(jax.random.key(9), (30, DIM))
grown = add_classes(state, optimiser, class_means(newcomers, jnp.arange(30) // 10, 3))
fewer, new_number = drop_classes(grown, [0, 1])
sizes = " → ".join(f"{head.weights.shape[0]:,}" for head in (state, grown, fewer))
print(f"{sizes} identities; class 2 is now {new_number[2]}")
