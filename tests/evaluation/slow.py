"""Slow, obvious float64 versions: loops over thresholds, folds and pairs, straight from the
definitions.
"""

import itertools

import numpy as np


def roc_points(scores: np.ndarray, same: np.ndarray) -> list[tuple[float, float]]:
    """(FAR, TAR) at +∞ and at every distinct score, one comparison of all the pairs each."""
    points = [(0.0, 0.0)]
    for threshold in sorted(set(scores.tolist()), reverse=True):
        accepted = scores >= threshold
        points.append(
            (
                np.count_nonzero(accepted & ~same) / np.sum(~same),
                np.count_nonzero(accepted & same) / np.sum(same),
            )
        )
    return points


def tar_nearest(scores: np.ndarray, same: np.ndarray, far: float) -> float:
    """TAR at the nearest FAR; of equally near points the larger TAR."""
    return max((-abs(x - far), y) for x, y in roc_points(scores, same))[1]


def mann_whitney(scores: np.ndarray, same: np.ndarray) -> float:
    """P(same > different) + ½ P(equal), over all combinations."""
    wins = sum(float(a > b) + 0.5 * float(a == b) for a in scores[same] for b in scores[~same])
    return wins / (np.sum(same) * np.sum(~same))


def equal_error(scores: np.ndarray, same: np.ndarray) -> float:
    """Walk along the polyline until FAR reaches FRR."""
    points = roc_points(scores, same)
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x1 >= 1 - y1:
            step = (1 - y0 - x0) / ((1 - y0 - x0) + (x1 - (1 - y1)))
            return x0 + step * (x1 - x0)
    raise AssertionError("FAR never reached FRR")


def ten_fold(scores: np.ndarray, same: np.ndarray, num_folds: int) -> list[float]:
    """Held-out accuracies; every cut between neighbouring training scores is tried, from the
    strictest.
    """
    accuracies = []
    for held_out in np.array_split(np.arange(len(scores)), num_folds):
        train = np.setdiff1d(np.arange(len(scores)), held_out)
        distinct = sorted(set(scores[train].tolist()), reverse=True)
        cuts = [np.nextafter(scores.dtype.type(distinct[0]), scores.dtype.type(np.inf))]
        for upper, lower in itertools.pairwise(distinct):
            middle = scores.dtype.type(lower) / 2 + scores.dtype.type(upper) / 2
            cuts.append(middle if lower < middle else upper)
        cuts.append(distinct[-1])
        best, best_cut = -1.0, cuts[0]
        for cut in cuts:
            accuracy = np.mean((scores[train] >= cut) == same[train])
            if accuracy > best:
                best, best_cut = accuracy, cut
        accuracies.append(float(np.mean((scores[held_out] >= best_cut) == same[held_out])))
    return accuracies


def val(
    scores: np.ndarray, same: np.ndarray, far: float, num_folds: int
) -> list[tuple[float, float]]:
    """(TAR, FAR) of each fold at the smallest cut that keeps the other folds' FAR at or below
    the target.
    """
    results = []
    for held_out in np.array_split(np.arange(len(scores)), num_folds):
        train = np.setdiff1d(np.arange(len(scores)), held_out)
        impostors = scores[train][~same[train]]
        cuts = [np.nextafter(score, impostors.dtype.type(np.inf)) for score in impostors]
        allowed = [cut for cut in cuts if np.sum(impostors >= cut) <= far * len(impostors)]
        accepted = scores[held_out] >= min(allowed)
        results.append(
            (float(accepted[same[held_out]].mean()), float(accepted[~same[held_out]].mean()))
        )
    return results


def published_ten_fold(distances: np.ndarray, same: np.ndarray, num_folds: int) -> list[float]:
    """The published loop: every threshold of the grid, every fold."""
    thresholds = np.arange(0, 4, 0.01)
    accuracies = []
    for held_out in np.array_split(np.arange(len(distances)), num_folds):
        train = np.setdiff1d(np.arange(len(distances)), held_out)
        on_train = [_accuracy(t, distances[train], same[train]) for t in thresholds]
        accuracies.append(
            _accuracy(thresholds[int(np.argmax(on_train))], distances[held_out], same[held_out])
        )
    return accuracies


def published_val(
    distances: np.ndarray, same: np.ndarray, far: float, num_folds: int
) -> list[tuple[float, float]]:
    """The published loop for VAL; where FARs repeat, interpolation starts at the last of them."""
    thresholds = np.arange(0, 4, 0.001)
    results = []
    for held_out in np.array_split(np.arange(len(distances)), num_folds):
        train = np.setdiff1d(np.arange(len(distances)), held_out)
        fars = [
            np.sum((distances[train] < t) & ~same[train]) / np.sum(~same[train]) for t in thresholds
        ]
        threshold = 0.0
        if max(fars) >= far:
            left = max(i for i, x in enumerate(fars) if x <= far)
            threshold = thresholds[left]
            if left + 1 < len(fars):
                slope = (thresholds[left + 1] - thresholds[left]) / (fars[left + 1] - fars[left])
                threshold = slope * (far - fars[left]) + thresholds[left]
        accepted = distances[held_out] < threshold
        results.append(
            (float(accepted[same[held_out]].mean()), float(accepted[~same[held_out]].mean()))
        )
    return results


def _accuracy(threshold: float, distances: np.ndarray, same: np.ndarray) -> float:
    predicted = np.less(distances, threshold)
    true_positives = np.sum(np.logical_and(predicted, same))
    true_negatives = np.sum(np.logical_and(np.logical_not(predicted), np.logical_not(same)))
    return float(true_positives + true_negatives) / distances.size


def exact_units(rng: np.random.Generator, count: int) -> np.ndarray:
    """float32 [count, 8], four entries of ±½ each: unit rows, ties abound, and every product is
    exact.
    """
    rows = np.zeros((count, 8), np.float32)
    for row in rows:
        row[rng.choice(8, 4, replace=False)] = rng.choice([-0.5, 0.5], 4)
    return rows


def search(
    gallery: np.ndarray, gallery_labels: np.ndarray, probes: np.ndarray, probe_labels: np.ndarray
) -> list[tuple[float, float, int, int]]:
    """(best mate, best impostor, its index, rank) of each probe, one comparison at a time."""
    results = []
    for probe, label in zip(probes.astype(np.float64), probe_labels, strict=True):
        mate, impostor, index = -np.inf, -np.inf, -1
        for entry, (row, other) in enumerate(
            zip(gallery.astype(np.float64), gallery_labels, strict=True)
        ):
            score = float(probe @ row)
            if other == label:
                mate = max(mate, score)
            elif score > impostor:
                impostor, index = score, entry
        rank = 0
        if mate > -np.inf:
            rank = 1 + sum(
                float(probe @ row) >= mate
                for row, other in zip(gallery.astype(np.float64), gallery_labels, strict=True)
                if other != label
            )
        results.append((mate, impostor, index, rank))
    return results


def tpir(results: list[tuple[float, float, int, int]], fpir: float) -> float:
    """Rank-1 TPIR at the threshold whose FPIR is nearest; of equally near ones the larger TPIR."""
    unknown = [impostor for mate, impostor, _, _ in results if mate == -np.inf]
    known = [(mate, rank) for mate, _, _, rank in results if mate > -np.inf]
    points = []
    for threshold in [np.inf, *unknown, *(mate for mate, rank in known if rank == 1)]:
        false = sum(impostor >= threshold for impostor in unknown) / len(unknown)
        true = sum(mate >= threshold and rank == 1 for mate, rank in known) / len(known)
        points.append((-abs(false - fpir), true))
    return max(points)[1]


def pool(
    features: np.ndarray,
    templates: np.ndarray,
    media: np.ndarray,
    detector: np.ndarray | None,
    keep_norms: bool,
) -> dict[int, np.ndarray]:
    """Templates by a loop over templates, media and images."""
    pooled = {}
    for template in sorted(set(templates.tolist())):
        total = np.zeros(features.shape[1])
        for medium in sorted(set(media[templates == template].tolist())):
            images = []
            for i in np.flatnonzero((templates == template) & (media == medium)):
                image = features[i].astype(np.float64)
                image = image if keep_norms else image / np.linalg.norm(image)
                images.append(image if detector is None else image * detector[i])
            total += np.mean(images, axis=0)
        pooled[template] = total / np.linalg.norm(total)
    return pooled


def degrees(a: np.ndarray, b: np.ndarray) -> float:
    """Angle between two vectors by arccos, in float64."""
    cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
