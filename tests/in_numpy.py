"""The losses in float64 NumPy, a few lines each: what the library is compared with."""

import numpy as np


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def cosines(embeddings, weights):
    """[N, C]; of K sub-centres, [C, K, D], the nearest counts."""
    cosine = np.einsum("nd,...d->n...", unit(embeddings), unit(weights))
    return cosine if cosine.ndim == 2 else cosine.max(axis=-1)


def own(cosine, labels):
    """The true class's, [N]; of a row labelled −1 another's."""
    return cosine[np.arange(len(labels)), labels]


def cross_entropy(cosine, labels, target, scale=64.0, smoothing=0.0, kept=True):
    """Softmax over the classes that are `kept`, with `target` [N] in place of the true class's
    cosine; 0 for a row labelled −1.
    """
    mask = np.arange(cosine.shape[1]) == labels[:, None]
    kept = np.broadcast_to(kept, mask.shape) | mask
    logits = np.reshape(scale, (-1, 1)) * np.where(mask, target[:, None], cosine)
    largest = np.where(kept, logits, -np.inf).max(axis=1, keepdims=True)
    log_p = logits - largest
    log_p = log_p - np.log(np.where(kept, np.exp(log_p), 0.0).sum(axis=1, keepdims=True))
    wanted = (1 - smoothing) * mask + smoothing * kept / kept.sum(axis=1, keepdims=True)
    return np.where(labels < 0, 0.0, -np.where(kept, wanted * log_p, 0.0).sum(axis=1))


def shard(rows, shards):
    """[shards, ⌈C/shards⌉, …]; all but the first C % shards have a class less, then a zero row."""
    split = np.zeros((shards, -(-len(rows) // shards), *rows.shape[1:]), rows.dtype)
    for place, part in zip(split, np.array_split(rows, shards), strict=True):
        place[: len(part)] = part
    return split


def unshard(split, classes):
    sizes = map(len, np.array_split(np.arange(classes), len(split)))
    return np.concatenate([part[:size] for part, size in zip(split, sizes, strict=True)])


def margin_softmax(
    embeddings, weights, labels, psi, scale=64.0, smoothing=0.0, threshold=None, classes=None
):
    """(loss, cosθ_y, hit), each [N]; `classes` are those of a sample."""
    cosine = cosines(np.where(labels[:, None] < 0, 1.0, embeddings), weights)
    mine, mask = own(cosine, labels), np.arange(len(weights)) == labels[:, None]
    there = np.ones(len(weights), bool)
    if classes is not None:
        there = np.isin(np.arange(len(weights)), classes)
    kept = there if threshold is None else there & (cosine <= threshold)
    loss = cross_entropy(cosine, labels, np.asarray(psi(mine)), scale, smoothing, kept)
    others = np.where(there & ~mask, cosine, -2.0).max(axis=1)
    return loss, np.where(labels < 0, 0.0, mine), (labels >= 0) & (mine > others)


def adaface(own_cosine, norms, mean=20.0, std=100.0, *, m=0.4, h=0.333, ema=0.01):
    """(target logits over s [N], new mean, new standard deviation), all rows counted."""
    norms = norms.clip(1e-3, 100)
    mean = ema * norms.mean() + (1 - ema) * mean
    std = ema * norms.std(ddof=1) + (1 - ema) * std
    quality = np.clip(h * (norms - mean) / (std + 1e-3), -1, 1)
    theta = np.arccos(np.clip(own_cosine, -1 + 1e-3, 1 - 1e-3))
    return np.cos(np.clip(theta - m * quality, 1e-3, np.pi - 1e-3)) - m * (1 + quality), mean, std


def magface(own_cosine, norms, past_pi="easy"):
    """(target logits over s [N], penalty [N]), with the authors' numbers."""
    norms = norms.clip(10, 110)
    margins = 0.45 + (0.8 - 0.45) / 100 * (norms - 10)
    with_margin = np.cos(np.arccos(own_cosine) + margins)
    if past_pi == "easy":
        target = np.where(own_cosine > 0, with_margin, own_cosine)
    else:
        turn = np.cos(np.pi - margins)
        target = np.where(own_cosine > turn, with_margin, own_cosine - margins * np.sin(margins))
    return target, 35 * (1 / norms + norms / 110**2)


def curricularface(cosine, labels, t, *, m=0.5, decay=0.99):
    """(all cosines as they enter the softmax [N, C], target logits over s [N], new t)."""
    mine = own(cosine, labels)
    with_margin = np.cos(np.arccos(mine) + m)
    target = np.where(mine > np.cos(np.pi - m), with_margin, mine - m * np.sin(m))
    t = decay * t + (1 - decay) * mine.mean()
    return np.where(cosine > target[:, None], cosine * (t + cosine), cosine), target, t


def kappaface(own_cosine, labels, classes, dim, *, share=0.7, temperature=0.4, decay=0.9):
    """(what m is multiplied by [C], decayed sums of the cosines [C], of their weights [C]) after a
    first batch, where all classes are as large.
    """
    there = np.isin(np.arange(classes), labels)
    r = np.array([own_cosine[labels == c].mean() if there[c] else 0.0 for c in range(classes)])
    kappa = r.clip(0, 0.999) * (dim - r.clip(0, 0.999) ** 2) / (1 - r.clip(0, 0.999) ** 2)
    away = np.where(there, (kappa - kappa[there].mean()) / kappa[there].std(), 0.0)
    factors = share * (1 - 1 / (1 + np.exp(-temperature * away)))
    return factors, (1 - decay) * r, (1 - decay) * there


def uss(embeddings, labels, bias, scale, margin):
    """Each anchor's mean over its positives and sum over its negatives, pair by pair."""
    cosine, losses = unit(embeddings) @ unit(embeddings).T, np.zeros(len(labels))
    for a, label in enumerate(labels):
        others = [o for o in range(len(labels)) if o != a and labels[o] >= 0 and label >= 0]
        pull = [
            np.logaddexp(0, bias - scale * (cosine[a, p] - margin))
            for p in others
            if labels[p] == label
        ]
        push = [np.logaddexp(0, scale * cosine[a, n] - bias) for n in others if labels[n] != label]
        losses[a] = (np.mean(pull) if pull else 0.0) + sum(push)
    return losses


def binary(positive, negative, labels, weights):
    """w₊·softplus(−positive_y) + w₋·Σ_{j≠y} softplus(negative_j) of logits [N, C]."""
    mask = np.arange(positive.shape[1]) == labels[:, None]
    each = np.where(mask, weights[0] * np.logaddexp(0, -positive), 0.0)
    return (each + np.where(mask, 0.0, weights[1] * np.logaddexp(0, negative))).sum(axis=1)


def angles(a, b):
    return np.arccos(np.clip(unit(a) @ unit(b).T, -1, 1))


def inter(weights, labels):
    """−mean angle between the own class's weight and the others', over π, [N]."""
    theta, classes = angles(weights, weights), len(weights)
    return np.array([-np.delete(theta[y], y).sum() / (np.pi * (classes - 1)) for y in labels])


def triplet(embeddings, labels, margin, mining):
    """The definition, anchor by anchor."""
    theta, rows = angles(embeddings, embeddings), len(labels)
    losses = np.zeros(rows)
    for a in range(rows):
        positives = [p for p in range(rows) if p != a and labels[p] == labels[a] >= 0]
        negatives = sorted(
            theta[a, n] for n in range(rows) if labels[n] >= 0 and labels[n] != labels[a] >= 0
        )
        if not positives or not negatives:
            continue
        if mining == "hard":
            losses[a] = max(0, max(theta[a, positives]) + margin - negatives[0])
            continue
        each = []
        for p in positives:
            farther = [t for t in negatives if t > theta[a, p]]
            each.append(max(0, theta[a, p] + margin - (farther[0] if farther else negatives[-1])))
        losses[a] = np.mean(each)
    return losses
