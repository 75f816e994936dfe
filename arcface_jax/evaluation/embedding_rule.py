"""How a photo becomes an embedding: its crop and its mirror image.

A cosine, and so a threshold, is valid for one rule only. Models, model cards, galleries and
embedding files therefore store their rule, and figures of one rule are refused with another.
"""

import dataclasses
import json
from typing import Literal, Self, get_args

from arcface_jax.errors import InputError
from arcface_jax.evaluation.verification import FlipRule

Crop = Literal["middle", "aligned", "face", "largest face"]
"""The part of a photo that the network sees. middle: its middle, as large as fits. aligned: the
same, for a crop already aligned to the template. face, largest face: the aligned crop of the
detected face nearest the middle, or of the largest.
"""

FLIP: FlipRule = "add"
"""The default of every command for the mirror image, unless an option or the model says otherwise.
Published numbers and a run's verification use it.
"""

_ALIGNED = ("aligned", "face", "largest face")
_CROP_OPTIONS = {
    None: "a crop that is not told",
    "middle": "no --detect",
    "aligned": "--aligned",
    "face": "--detect",
    "largest face": "--detect --face largest",
}


@dataclasses.dataclass(frozen=True)
class EmbeddingRule:
    """From a photo to its embedding; the defaults are those of every command.

    Attributes:
      flip: how the mirror image is combined, see `verification.combine_flip`; None: unknown.
      crop: the part of the photo that the network sees; None: unknown.

    Raises:
      InputError: there is no such flip or crop.
    """

    flip: FlipRule | None = FLIP
    crop: Crop | None = "middle"

    def __post_init__(self) -> None:
        for name, known in (("flip", get_args(FlipRule)), ("crop", get_args(Crop))):
            if (value := getattr(self, name)) is not None and value not in known:
                raise InputError(f"{name}: {value!r} is unknown; use {', '.join(known)}")

    def __str__(self) -> str:
        """The options that select it, such as "--flip add --detect"."""
        if self == NOT_TOLD:
            return "not told"
        flip = "a mirror image that is not told" if self.flip is None else f"--flip {self.flip}"
        parts = (flip, _CROP_OPTIONS[self.crop])
        options = [part for part in parts if part.startswith("--")]
        return " and ".join([" ".join(options), *(part for part in parts if part not in options)])

    @property
    def told(self) -> bool:
        """Whether both are known, so that a threshold can be applied."""
        return self.flip is not None and self.crop is not None

    def agrees_with(self, other: "EmbeddingRule") -> bool:
        """Whether cosines by both may be compared; unknown parts count as equal.

        An aligned crop counts as equal to a photo whose face is found and aligned.
        """
        mirrored = None in (self.flip, other.flip) or self.flip == other.flip
        crops = (self.crop, other.crop)
        equal = None in crops or self.crop == other.crop
        return mirrored and (equal or ("aligned" in crops and set(crops) <= set(_ALIGNED)))

    def to_json(self) -> str:
        """{"flip": …, "crop": …}."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Reads what `to_json` wrote.

        Raises:
          InputError: it is something else.
        """
        try:
            return cls(**json.loads(text))
        except (TypeError, ValueError, RecursionError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                "the rule of its embeddings cannot be read; embed the photos again"
            ) from None


NOT_TOLD = EmbeddingRule(None, None)
"""The rule of embeddings that come without one."""
