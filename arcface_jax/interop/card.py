"""The model card of an export: what the model is, what it was fed, how well it does."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any, Self

from arcface_jax.command_name import command
from arcface_jax.errors import InputError, reason
from arcface_jax.evaluation.embedding_rule import FLIP, EmbeddingRule
from arcface_jax.evaluation.verification import FlipRule

CARD_FILE = "model_card.json"
LARGEST_CHANGE = "largest change of a cosine"
"""The metric that tells how far an export is from the model, over all pairs of the set."""


@dataclasses.dataclass(frozen=True)
class Threshold:
    """Accept a pair if its cosine is at least `cosine`.

    Attributes:
      far: the false accept rate that was wanted.
      cosine: the threshold.
      tar: the true accept rate there.
      warning: why not to trust it; None if there were pairs enough.
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
      source: the file or run that it was exported from.
      network: class of the backbone.
      parameters: their number.
      embedding_size: D.
      image_size: (height, width) of the uint8 RGB input.
      training_pixels: what the network was trained on, already part of the export.
      rule: how its embeddings are made, and how the photos were cropped that metrics and thresholds
        were measured on.
      options: how it was exported: folded, weights.
      data: what it was trained on.
      recipe: how it was trained, in words.
      config: every setting of the run, where it was trained here; None otherwise.
      run_results: the run's last verification, on the people that it held out; empty if there is
        none.
      licence: of the weights.
      verified_on: the set that metrics and thresholds were measured on; None if none was given.
      metrics: of the export, and under "original" of the model before it.
      thresholds: for false accept rates 1e-3 … 1e-6.
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
    versions: Mapping[str, str]

    @property
    def flip(self) -> FlipRule:
        """How the export combines an image's embedding with that of its mirror image."""
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
            size = (int(height), int(width))
            return cls(**content, rule=rule, thresholds=thresholds, image_size=size)
        except OSError as error:
            raise InputError(
                f"{path}: cannot be read ({error.strerror}); give the folder of an export"
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path}: is no model card of this version ({reason(error)}); export the model "
                "again"
            ) from error

    def threshold(self, far: float, rule: EmbeddingRule) -> Threshold:
        """The threshold for a false accept rate, of embeddings by `rule`.

        Raises:
          InputError: the card has none for it, or measured it by another rule.
        """
        if self.thresholds and not self.rule.agrees_with(rule):
            raise InputError(
                f"the thresholds of the model card were measured with {self.rule}, and these "
                f"photos are taken with {rule}; give the same options, or give --threshold, or "
                "export the model again with --verify and these options"
            )
        for threshold in self.thresholds:
            if threshold.far == far:
                return threshold
        known = ", ".join(f"{each.far:g}" for each in self.thresholds)
        known = known or "none: export with --verify, or give --threshold"
        raise InputError(f"far: {far:g} has no threshold in the model card, which has {known}")

    def to_markdown(self) -> str:
        """The card for people."""
        height, width = self.image_size
        lines = [
            f"# {self.name}",
            "",
            f"{self.network}, {self.parameters:,} parameters. uint8 RGB images [N, {height}, "
            f"{width}, 3] in, unit embeddings [N, {self.embedding_size}] out; preprocessing is "
            "part of the model.",
            "",
            f"- Exported from: {self.source}",
            f"- Options: {', '.join(f'{key} {value}' for key, value in self.options.items())}",
            f"- Mirror image and crop: {self.rule}",
            f"- Training data: {self.data}",
            f"- Recipe: {self.recipe}",
            f"- Licence: {self.licence}",
        ]
        if self.verified_on is not None:
            lines += ["", f"## Verified on {self.verified_on}", ""]
            lines += ["| | original | this export |", "|---|---|---|"]
            lines += [
                f"| {key} | {value:.5f} | {self.metrics[key]:.5f} |"
                for key, value in self.metrics["original"].items()
            ]
            lines += [f"\nLargest change of a cosine: {self.metrics[LARGEST_CHANGE]:.2g}"]
            lines += ["", "| FAR | accept from cosine | TAR | |", "|---|---|---|---|"]
            lines += [
                f"| {t.far:g} | {t.cosine:.4f} | {t.tar:.4f} | {t.warning or ''} |"
                for t in self.thresholds
            ]
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
