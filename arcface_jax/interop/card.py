"""The model card of an export: the model, its training data, its results."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from arcface_jax.command_name import command
from arcface_jax.counts import number_of
from arcface_jax.errors import InputError, reason
from arcface_jax.evaluation.bootstrap import Interval
from arcface_jax.evaluation.calibration import Calibration, percent
from arcface_jax.evaluation.embedding_rule import FLIP, EmbeddingRule
from arcface_jax.evaluation.impostor_tail import ImpostorTail, rate_of_each
from arcface_jax.evaluation.thresholds import fars_told, too_few_pairs
from arcface_jax.evaluation.verification import FlipRule

CARD_FILE = "model_card.json"
CARD_TEXT = "README.md"
CARD_FARS = (1e-3, 1e-4, 1e-5, 1e-6)
"""False accept rates of its thresholds, where its pairs can tell them."""
CHANGE = "change"
LARGEST_CHANGE = "largest change of a cosine"
"""The metric for the difference between export and model, over all pairs of the set."""


NOT_FOR = """## What it must not be used for

- Recognising people who have not agreed to it, or where the law forbids it.
- Decisions about a person, such as arrest, entry or payment, that nobody checks.
- People, cameras and poses unlike those that it was verified on: its rates are not theirs, and
  differ between groups of people; measure them on your own photos first.
- Telling age, sex, origin, health or character."""
"""Part of every card: a face model can do harm in any hands."""


@dataclasses.dataclass(frozen=True)
class Threshold:
    """Accept a pair if its cosine is at least `cosine`.

    Attributes:
      far: the wanted false accept rate.
      cosine: the threshold.
      tar: the true accept rate there.
      warning: why not to trust it; None if there were enough pairs.
    """

    far: float
    cosine: float
    tar: float
    warning: str | None = None


@dataclasses.dataclass(frozen=True)
class ModelCard:
    """Everything in a card but the weights, in the order of `to_markdown`.

    Attributes:
      name: of the model.
      source: the exported file or run.
      network: class of the backbone.
      parameters: their number.
      embedding_size: D.
      image_size: (height, width) of the uint8 RGB input.
      training_pixels: pixel format of the training; the export converts to it.
      rule: how embeddings are made, and the crop used for metrics and thresholds.
      options: how it was exported: folded, weights.
      data: the training data.
      recipe: how it was trained, in words.
      config: every setting of the run if it was trained with this library; else None.
      run_results: the run's last verification, on held-out people; empty if there is none.
      licence: of the weights.
      verified_on: the set used for metrics and thresholds; None if none was given.
      metrics: of the export, under "original" of the model before export, and, of an export that
        is shortened or stored in smaller types, under CHANGE the change of each with its interval.
      thresholds: for those of CARD_FARS that its pairs can tell.
      calibration: from a cosine to the likelihood ratio and the probability; None without a set, or
        if it allows none.
      calibration_figures: of `calibration.calibrate`, each with the ends of its interval; or
        "warning", why there are none.
      strangers: how often different people score as high; None without a set.
      versions: of the libraries.
    """

    name: str
    source: str
    network: str
    parameters: int
    embedding_size: int
    image_size: tuple[int, int]
    training_pixels: Mapping[str, Any]
    rule: EmbeddingRule
    options: Mapping[str, Any]
    data: str
    recipe: str
    config: Mapping[str, Any] | None
    run_results: Mapping[str, Any]
    licence: str
    verified_on: str | None
    metrics: Mapping[str, Any]
    thresholds: tuple[Threshold, ...]
    calibration: Calibration | None
    calibration_figures: Mapping[str, Any]
    strangers: ImpostorTail | None
    versions: Mapping[str, str]

    @property
    def flip(self) -> FlipRule:
        """How the export combines the embeddings of an image and its mirror image."""
        return self.rule.flip or FLIP

    def to_json(self) -> str:
        """Indented JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def read(cls, folder: pathlib.Path) -> Self:
        """The card in an export's folder.

        Raises:
          InputError: there is none, or it lacks a field.
        """
        path = folder / CARD_FILE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            thresholds = tuple(Threshold(**each) for each in content.pop("thresholds"))
            height, width = content.pop("image_size")
            rule = EmbeddingRule(**content.pop("rule"))
            fitted, tail = content.pop("calibration"), content.pop("strangers")
            return cls(
                **content,
                rule=rule,
                thresholds=thresholds,
                image_size=(int(height), int(width)),
                calibration=None if fitted is None else _read_calibration(fitted),
                strangers=None if tail is None else _read_tail(tail),
            )
        except OSError as error:
            raise InputError(
                f"{path}: cannot be read ({error.strerror}); give the folder of an export"
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path}: is no model card of this version ({reason(error)}); export the model "
                "again"
            ) from error

    def threshold(self, far: float, rule: EmbeddingRule, entries: int = 1) -> Threshold:
        """The threshold that accepts a stranger, compared with this many gallery entries, at the
        rate `far`; for embeddings by `rule`.

            far = 1 − (1 − FAR of each comparison)^entries

        as if entries were independent. Entries of one person are not; the true rate is then lower.
        With several entries, the result's `far` is that of each comparison, and its `tar` is
        unknown.

        Raises:
          InputError: the card has no thresholds, or its rule differs, or the embeddings' rule is
            unknown, or it has too few pairs for so rare a false accept; the message says how many
            are needed.
        """
        self.check_rule(rule)
        if self.strangers is None or not self.thresholds:
            raise InputError(
                f"far: {far:g} has no threshold in the model card, which has none: export with "
                "--verify, or give --threshold"
            )
        each = rate_of_each(far, entries)
        for threshold in self.thresholds:
            if entries == 1 and threshold.far == far:
                return threshold
        try:
            cosine = self.strangers.threshold(each)
        except InputError as error:
            among = "" if entries == 1 else f" among {entries:,} entries"
            raise InputError(
                f"--far {far:g}{among}: {error}; give a larger one, or --threshold, or export the "
                "model with --verify of more people"
            ) from None
        warning = too_few_pairs(self.strangers.num_different, each)
        return Threshold(each, cosine, math.nan, warning)

    def check_rule(self, rule: EmbeddingRule) -> None:
        """Raises `InputError` if the thresholds are not valid for embeddings by `rule`."""
        if self.thresholds and not rule.told:
            raise InputError(
                f"how its photos were embedded is {rule}, and the thresholds of the model card "
                f"hold for {self.rule} alone; embed them again, or give --threshold"
            )
        if self.thresholds and not self.rule.agrees_with(rule):
            raise InputError(
                f"the thresholds of the model card were measured with {self.rule}, and these "
                f"photos are taken with {rule}; give the same options, or give --threshold, or "
                "export the model again with --verify and these options"
            )

    def strangers_by(self, rule: EmbeddingRule) -> ImpostorTail | None:
        """`strangers`, for embeddings by `rule`; None if the card does not cover these."""
        return self.strangers if rule.told and self.rule.agrees_with(rule) else None

    def meaning(self, cosine: float, rule: EmbeddingRule) -> str | None:
        """What a cosine of embeddings by `rule` means; None if the card does not cover these."""
        tail = self.strangers_by(rule)
        if tail is None:
            return None
        strangers = tail.words(cosine)
        verb = "score" if strangers == "most" else "scores"
        rare = f"{strangers} strangers {verb} as high"
        if self.calibration is None:
            return rare
        probability = percent(float(self.calibration.probability(np.array(cosine))))
        return f"same person: {probability}, if that was as likely as not before; {rare}"

    def _probability_lines(self) -> list[str]:
        if self.calibration is None:
            return [f"No probability: {self.calibration_figures.get('warning', 'not measured')}"]
        of, figures = self.calibration, self.calibration_figures
        written = {name: Interval(**each) for name, each in figures.items()}
        lines = [
            f"The natural logarithm of the likelihood ratio of a cosine c is {of.slope:.4g}·c "
            f"{of.offset:+.4g}, of {of.num_same:,} same and "
            f"{number_of(of.num_different, 'different pair')} weighted alike, and never beyond "
            f"what so many can tell. On people it was not fitted to: Cllr {written['cllr']} bits, "
            f"ECE {written['ece']}.",
            "",
            "The probability is for a prior of ½: that both photos show one person was as likely "
            "as not before they were seen. Where it was not, multiply the odds by prior/(1 − "
            "prior): among 1,000 strangers and one who is the person, by 1/1,000.",
        ]
        if of.separable:
            lines += [
                "",
                "Every same pair scored above every different one: how steeply the "
                "probability rises between them is not known.",
            ]
        lines += ["", "| cosine | same person | strangers who score as high |", "|---|---|---|"]
        for name, one in written.items():
            what, _, cosine = name.partition("@")
            if what == "probability" and self.strangers is not None:
                ends = f"{percent(one.low)} to {percent(one.high)}"
                rare = self.strangers.words(float(cosine))
                lines.append(f"| {cosine} | {percent(one.estimate)} ({ends}) | {rare} |")
        return lines

    def _untold(self) -> list[str]:
        """A line on the rates that its pairs cannot tell; none if there are none."""
        if self.strangers is None:
            return []
        _, untold = fars_told(CARD_FARS, self.strangers.num_different)
        return [] if untold is None else [untold]

    def in_short(self) -> list[str]:
        """The few lines of the card that say what was exported and how good it is."""
        height, width = self.image_size
        lines = [
            f"{self.name}: {self.network}, {number_of(self.parameters, 'parameter')}, "
            f"{height}×{width} RGB in, {number_of(self.embedding_size, 'number')} out; {self.rule}"
        ]
        if self.verified_on is None:
            return [*lines, "No accuracy or threshold of the export itself: --verify measures them"]
        before, named = self.metrics["original"], {"auc": "AUC", "eer": "EER"}
        rates = (f"{named[key]} {self.metrics[key]:.4f} ({before[key]:.4f})" for key in named)
        lines += [f"On {self.verified_on}, and as trained: {', '.join(rates)}"]
        changes = self.metrics.get(CHANGE, {})
        for key in named if changes else ():
            lines += [f"Change of {named[key]}, over people: {Interval(**changes[key])}"]
        for t in self.thresholds:
            warning = "" if t.warning is None else f"; warning: {t.warning}"
            lines += [f"For FAR {t.far:g} accept from {t.cosine:.4f}, TAR {t.tar:.4f}{warning}"]
        lines += self._untold()
        if self.calibration is None:
            lines += self._probability_lines()
        return lines

    def to_markdown(self) -> str:
        """The card for human readers."""
        height, width = self.image_size
        lines = [
            f"# {self.name}",
            "",
            f"{self.network}, {number_of(self.parameters, 'parameter')}. uint8 RGB images [N, "
            f"{height}, {width}, 3] in, unit embeddings [N, {self.embedding_size}] out; "
            "preprocessing is part of the model.",
            "",
            f"- Exported from: {self.source}",
            f"- Options: {', '.join(f'{key} {value}' for key, value in self.options.items())}",
            f"- Mirror image and crop: {self.rule}",
            f"- Training data: {self.data}",
            f"- Recipe: {self.recipe}",
            f"- Licence: {self.licence}",
            "",
            NOT_FOR,
        ]
        if self.verified_on is not None:
            lines += ["", f"## Verified on {self.verified_on}", ""]
            change = {name: Interval(**each) for name, each in self.metrics.get(CHANGE, {}).items()}
            heading = " change, over people |" if change else ""
            lines += [
                f"| | original | this export |{heading}",
                f"|---|---|---|{'---|' * bool(change)}",
            ]
            lines += [
                f"| {key} | {value:.5f} | {self.metrics[key]:.5f} |"
                + (f" {change.get(key, '–')} |" if change else "")
                for key, value in self.metrics["original"].items()
            ]
            lines += [f"\nLargest change of a cosine: {self.metrics[LARGEST_CHANGE]:.2g}"]
            lines += ["", "| FAR | accept from cosine | TAR | |", "|---|---|---|---|"]
            lines += [
                f"| {t.far:g} | {t.cosine:.4f} | {t.tar:.4f} | {t.warning or ''} |"
                for t in self.thresholds
            ]
            lines += [f"\n{line}." for line in self._untold()]
            lines += ["", *self._probability_lines()]
        if self.run_results:
            lines += ["", "## The run's own last verification, on the people it held out", ""]
            lines += ["| | |", "|---|---|"]
            lines += [f"| {key} | {value:.5g} |" for key, value in self.run_results.items()]
        if self.config is not None:
            lines += [
                "",
                "## Recipe",
                "",
                f"Save it as config.json, and `{command('train')} --config config.json`",
                "trains the model again:",
                "",
                f"```json\n{json.dumps(self.config, indent=2)}\n```",
            ]
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        lines += ["", f"Libraries: {versions}", ""]
        return "\n".join(lines)


def _read_calibration(content: Mapping[str, Any]) -> Calibration:
    slope, offset = float(content["slope"]), float(content["offset"])
    counts = int(content["num_same"]), int(content["num_different"])
    return Calibration(slope, offset, *counts, bool(content["separable"]))


def _read_tail(content: Mapping[str, Any]) -> ImpostorTail:
    accepted, scores = tuple(map(int, content["accepted"])), tuple(map(float, content["scores"]))
    return ImpostorTail(int(content["num_different"]), accepted, scores)
