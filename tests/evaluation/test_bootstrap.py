import numpy as np
import pytest

from arcface_jax.errors import InputError
from arcface_jax.evaluation.angle_statistics import ClassAngles, angle_statistics, class_angles
from arcface_jax.evaluation.bootstrap import (
    Resampling,
    angle_intervals,
    bootstrap_pairs,
    identification_intervals,
    pair_replicates,
    roc_intervals,
    verification_intervals,
)
from arcface_jax.evaluation.comparison import compare_similarities
from arcface_jax.evaluation.identification import identify, mean_of_galleries
from arcface_jax.evaluation.roc import area_under_curve, equal_error_rate, roc_curve, tar_at_far
from arcface_jax.evaluation.search import Search
from arcface_jax.evaluation.verification import verify_similarities


def pair_list(seed: int, people: int = 60, noise: float = 0.2) -> tuple[np.ndarray, ...]:
    """(true similarities, noisy similarities, same, first, second) in ten folds, each half same."""
    rng = np.random.default_rng(seed)
    same = np.tile(np.repeat([True, False], 20), 10)
    first = np.concatenate(
        [rng.integers(fold * people // 10, (fold + 1) * people // 10, 40) for fold in range(10)]
    )
    step = rng.integers(1, people // 10, 400)
    start = first // (people // 10) * (people // 10)
    second = np.where(same, first, start + (first - start + step) % (people // 10))
    clean = np.where(same, 0.5, 0.0) + 0.15 * rng.normal(size=400)
    return clean, clean + noise * rng.normal(size=400), same, first, second


def test_replicate_weights_are_products_of_how_often_people_were_drawn() -> None:
    same = np.array([True, True, False, False])
    first, second = np.array([0, 1, 0, 1]), np.array([0, 1, 1, 2])
    seen = set()
    for weights in pair_replicates(same, first, second, resampling=Resampling(300, seed=1)):
        seen.add(tuple(weights.tolist()))
        assert weights[0] * weights[1] == weights[2]  # c0, c1 and c0·c1
    # Draws of three people with at least one same and one different pair left, as counts (c0, c1,
    # c2).
    kept = [(1, 1, 1), (1, 2, 0), (2, 1, 0), (0, 1, 2), (0, 2, 1)]
    assert seen == {(a, b, a * b, b * c) for a, b, c in kept}


def test_pairs_of_one_person_are_not_independent_evidence() -> None:
    # 50 people, each always or never accepted: ten pairs of one say no more than one.
    people, repeats = 50, 10
    person = np.repeat(np.arange(people), repeats)
    good = person % 5 != 0
    scores = np.concatenate([np.where(good, 0.9, 0.1), np.full(500, 0.5)])
    same = np.arange(1000) < 500
    rng = np.random.default_rng(0)
    first = np.concatenate([person, rng.integers(0, 25, 500)])
    second = np.concatenate([person, rng.integers(25, 50, 500)])
    interval = roc_intervals(scores, same, first, second, fars=(0.0,), resampling=Resampling(2000))[
        "tar@far=0"
    ]
    assert interval.estimate == pytest.approx(0.8)
    half_width = 1.96 * np.sqrt(0.8 * 0.2 / people)  # as for 50 trials, not 500
    assert (interval.high - interval.low) / 2 == pytest.approx(half_width, rel=0.15)


def test_intervals_cover_the_truth_about_as_often_as_they_claim() -> None:
    # Each person's same-pair score is N(person's mean, small); the true mean over people is 0.
    covered = 0
    for trial in range(60):
        rng = np.random.default_rng(trial)
        person = np.repeat(np.arange(40), 4)
        scores = np.concatenate(
            [rng.normal(size=40)[person] + 0.1 * rng.normal(size=160), np.zeros(40)]
        )
        same = np.arange(200) < 160
        first = np.append(person, np.arange(40))
        second = np.append(person, (np.arange(40) + 1) % 40)

        def mean(weights: np.ndarray | None, scores: np.ndarray = scores) -> dict[str, float]:
            return {
                "mean": float(
                    np.average(scores[:160], weights=None if weights is None else weights[:160])
                )
            }

        interval = bootstrap_pairs(
            mean, same, first, second, resampling=Resampling(200, 0.9, trial)
        )["mean"]
        covered += interval.low <= 0 <= interval.high
    assert 46 <= covered <= 60  # 54 expected, with a standard deviation of 2.3


def test_estimates_are_the_plain_figures_and_lie_inside() -> None:
    scores, _, same, first, second = pair_list(0)
    intervals = verification_intervals(scores, same, first, second, resampling=Resampling(60))
    for described in ("accuracy_std", "val_std", "num_same", "num_different"):
        assert (
            intervals[described].low == intervals[described].high == intervals[described].estimate
        )
    assert {name: i.estimate for name, i in intervals.items()} == verify_similarities(
        scores, same
    ).numbers()
    for name in ("accuracy", "eer", "auc", "tar@far=0.01"):
        assert intervals[name].low <= intervals[name].estimate <= intervals[name].high
        assert intervals[name].low < intervals[name].high
    roc = roc_curve(scores, same)
    by_roc = roc_intervals(scores, same, first, second, fars=(0.1,), resampling=Resampling(20))
    assert by_roc["tar@far=0.1"].estimate == tar_at_far(roc, 0.1)
    assert (by_roc["eer"].estimate, by_roc["auc"].estimate) == (
        equal_error_rate(roc),
        area_under_curve(roc),
    )
    assert str(by_roc["auc"]).startswith(f"{area_under_curve(roc):.4f} [")


def test_folds_stand_in_for_unknown_identities() -> None:
    scores, _, same, _, _ = pair_list(1)
    folds = np.arange(400) // 40
    interval = verification_intervals(scores, same, folds, folds, resampling=Resampling(60))[
        "accuracy"
    ]
    assert interval.low < interval.estimate < interval.high


def test_noise_is_called_noise_and_a_worse_model_significant() -> None:
    clean, noisy, same, first, second = pair_list(2, noise=0.3)
    rng = np.random.default_rng(0)
    twin = clean + 0.02 * rng.normal(size=400)
    worse = compare_similarities(clean, noisy, same, first, second, resampling=Resampling(200))
    assert worse["auc"].verdict == "significant"
    assert worse["auc"].high < 0
    assert worse["auc"].p_value < 0.05
    alike = compare_similarities(clean, twin, same, first, second, resampling=Resampling(200))
    assert alike["auc"].verdict == "noise"
    assert alike["auc"].p_value > 0.05
    itself = compare_similarities(clean, clean, same, first, second, resampling=Resampling(50))
    assert {(c.difference, c.p_value, c.verdict) for c in itself.values()} == {(0.0, 1.0, "noise")}
    # Pairing makes the difference sharper than either figure.
    alone = verification_intervals(clean, same, first, second, resampling=Resampling(200))["auc"]
    assert alike["auc"].high - alike["auc"].low < 0.5 * (alone.high - alone.low)


def test_identification_resamples_people_not_probes() -> None:
    # 30 known people with five probes each, all found or none; 30 unknown ones.
    labels = np.repeat(np.arange(60), 5)
    found = (labels % 3 != 0) & (labels < 30)
    enrolled = labels < 30
    search = Search(
        mate=np.where(enrolled, 0.6, -np.inf),
        enrolled=enrolled,
        impostor=np.where(found, 0.1, 0.5),
        impostor_index=np.zeros(300, int),
        rank=np.where(found, 1, np.where(enrolled, 7, 0)),
    )
    intervals = identification_intervals(search, labels, resampling=Resampling(1000))
    assert {name: i.estimate for name, i in intervals.items()} == identify(search).numbers()
    half_width = 1.96 * np.sqrt(2 / 3 * 1 / 3 / 30)
    assert (intervals["rank-1"].high - intervals["rank-1"].low) / 2 == pytest.approx(
        half_width, rel=0.15
    )
    assert intervals["rank-10"].low == intervals["rank-10"].high == 1.0


def test_galleries_are_resampled_together() -> None:
    # 40 people with four probes each, all found or none, half in one gallery and half in the other.
    labels = np.repeat(np.arange(40), 4)
    found = labels % 2 == 0

    def search(enrolled: np.ndarray) -> Search:
        rank = np.where(enrolled, np.where(found, 1, 7), 0)
        scores = np.where(enrolled, 0.6, -np.inf), np.where(found, 0.1, 0.5)
        return Search(scores[0], enrolled, scores[1], np.zeros(160, int), rank)

    galleries = [search(labels < 20), search(labels >= 20)]
    resampling = Resampling(1000)
    mean = identification_intervals(galleries, labels, resampling=resampling)
    assert {n: i.estimate for n, i in mean.items()} == mean_of_galleries(
        [identify(g) for g in galleries]
    ).numbers()
    half_width = 1.96 * np.sqrt(0.25 / 40)  # 40 people tell more than a gallery's 20
    assert (mean["rank-1"].high - mean["rank-1"].low) / 2 == pytest.approx(half_width, rel=0.2)
    # In the same gallery twice, nothing is averaged out.
    twice = identification_intervals(galleries[:1] * 2, labels, resampling=resampling)
    once = identification_intervals(galleries[0], labels, resampling=resampling)
    assert all(twice[name] == once[name] for name in once if not name.startswith("num_"))
    with pytest.raises(InputError, match="searches: none given"):
        identification_intervals([], labels)
    with pytest.raises(InputError, match=r"probe_labels: shape \(3,\) for 160 probes"):
        identification_intervals(galleries, labels[:3])


def test_angle_intervals_are_those_of_a_mean_over_classes() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(100), rng.integers(1, 6, 100))
    centres = rng.normal(size=(100, 6))
    embeddings = centres[labels] + 0.5 * rng.normal(size=(len(labels), 6))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    angles = class_angles(embeddings, labels, centres)
    intervals = angle_intervals(angles, resampling=Resampling(2000))
    assert {n: i.estimate for n, i in intervals.items()} == angle_statistics(
        embeddings, labels, centres
    )
    for name in ("inter", "w_ec", "w_inter"):
        half_width = 1.96 * angles[name].degrees.std() / 10
        assert (intervals[name].high - intervals[name].low) / 2 == pytest.approx(
            half_width, rel=0.15
        )
        assert (intervals[name].high + intervals[name].low) / 2 == pytest.approx(
            intervals[name].estimate, abs=0.2 * half_width
        )


def test_a_class_counts_in_intra_as_often_as_it_has_images_and_is_drawn() -> None:
    # Drawn twice, the first class gives 10, the second 40; drawn once each, they give (1 · 10 + 3 ·
    # 40) / 4.
    intra = {"intra": ClassAngles(np.array([10.0, 40.0]), np.array([1, 3]))}
    interval = angle_intervals(intra, resampling=Resampling(200))["intra"]
    assert (interval.low, interval.estimate, interval.high) == (10, 32.5, 40)
    half = angle_intervals(intra, resampling=Resampling(200, 0.3))["intra"]
    assert (half.low, half.high) == (32.5, 32.5)
    with pytest.raises(InputError, match="intra: the angle of 1 class"):
        angle_intervals({"intra": ClassAngles(np.array([10.0]), np.array([1]))})


def test_equal_seeds_give_equal_intervals() -> None:
    scores, _, same, first, second = pair_list(3)
    one, two, other = (
        roc_intervals(scores, same, first, second, resampling=Resampling(20, seed=seed))["auc"]
        for seed in (5, 5, 6)
    )
    assert one == two
    assert one != other


def test_bad_input_is_named() -> None:
    scores, _, same, first, second = pair_list(4)
    with pytest.raises(InputError, match="one identity only"):
        roc_intervals(scores, same, np.zeros(400), np.zeros(400), resampling=Resampling(2))
    with pytest.raises(InputError, match=r"second_identity: shape \(399,\) for 400"):
        list(pair_replicates(same, first, second[1:]))
    kinds = np.array([True, False])
    with pytest.raises(InputError, match="too few to resample"):
        list(
            pair_replicates(kinds, np.array([0, 1]), np.array([0, 2]), resampling=Resampling(1000))
        )
    with pytest.raises(InputError, match="confidence: 1"):
        roc_intervals(scores, same, first, second, resampling=Resampling(2, 1.0))
    with pytest.raises(InputError, match="0 replicates"):
        roc_intervals(scores, same, first, second, resampling=Resampling(0))
    with pytest.raises(InputError, match="probe_labels"):
        identification_intervals(Search(*(np.zeros(3) for _ in range(5))), np.zeros(4))
