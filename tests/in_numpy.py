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
