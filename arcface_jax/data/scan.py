"""One pass over a data set's images: a few numbers per image, and the average face."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from PIL import Image
from scipy.fft import dctn
from scipy.ndimage import gaussian_filter

from arcface_jax.data.aligned_crop import TEMPLATE, TEMPLATE_SIZE
from arcface_jax.data.decode import noting_frames, resize
from arcface_jax.data.sixteen_bits import noting_unsaid_bits
from arcface_jax.data.source import FaceSource
from arcface_jax.data.upright import SIDE, fit_upright, upright_features
from arcface_jax.errors import InputError

_T = TypeVar("_T")

_HASH_SIDE = 16
_NEAR_BITS = 30
_CROWDED = 400
_CHUNK = 512
_SAMPLE = 2048


@dataclasses.dataclass(frozen=True)
class Scan:
    """The results of one pass over the images.

    Attributes:
      readable: bool [N].
      messages: index → why the image cannot be decoded.
      sizes: int32 [N, 2], height and width.
      content: 16 bytes [N], a digest of the pixels, equal for equal images.
      perceptual: uint8 [N, 32], a 256-bit hash that re-encoding hardly changes.
      unsaid_bits: index → largest sample of a 16-bit image that does not say how many bits count.
      frames: index → number of frames or pages, if there are several.
      contrast: float32 [N], the largest standard deviation of the pixels over the colours.
      smoothness: float32 [N], the correlation of neighbouring pixels, see `smoothness`.
      upright: float32 [N], how much more upright than turned an image looks, see
        `upright.UprightClassifier.judge`; NaN if unknown.
      quarters: int8 [N], the counter-clockwise quarter turns after which it looks best.
      mean_face: float64 [112, 112], the average of the readable images, grey.
    """

    readable: np.ndarray
    messages: dict[int, str]
    sizes: np.ndarray
    content: np.ndarray
    perceptual: np.ndarray
    unsaid_bits: dict[int, int]
    frames: dict[int, int]
    contrast: np.ndarray
    smoothness: np.ndarray
    upright: np.ndarray
    quarters: np.ndarray
    mean_face: np.ndarray


def find_unreadable(
    source: FaceSource, threads: int = 4, progress: Callable[[int], None] | None = None
) -> dict[int, str]:
    """Decodes every image; returns index → message of those that fail."""

    def message(index: int) -> str | None:
        try:
            source[index]
        except InputError as error:
            return str(error)
        return None

    found: dict[int, str] = {}
    for chunk, results in _in_chunks(message, np.arange(len(source)), threads, progress):
        found.update(
            (index, text) for index, text in zip(chunk, results, strict=True) if text is not None
        )
    return found


def scan(
    source: FaceSource, threads: int = 4, progress: Callable[[int], None] | None = None
) -> Scan:
    """Reads every image once, and keeps about 90 bytes of each.

    First reads a sample of up to 2,048 evenly spaced images, to learn what upright means.

    Args:
      source: where the images are.
      threads: decoders at work.
      progress: called with the number of images done since the last call.
    """
    count = len(source)
    result = Scan(
        readable=np.zeros(count, bool),
        messages={},
        sizes=np.zeros((count, 2), np.int32),
        content=np.zeros(count, "V16"),
        perceptual=np.zeros((count, _HASH_SIDE * _HASH_SIDE // 8), np.uint8),
        unsaid_bits={},
        frames={},
        contrast=np.zeros(count, np.float32),
        smoothness=np.zeros(count, np.float32),
        upright=np.full(count, np.nan, np.float32),
        quarters=np.zeros(count, np.int8),
        mean_face=np.zeros((TEMPLATE_SIZE, TEMPLATE_SIZE)),
    )

    def read(index: int) -> Image.Image | None:
        try:
            with noting_unsaid_bits() as noted, noting_frames() as frames:
                image = source[index]
        except InputError as error:
            result.messages[index] = str(error)
            return None
        result.readable[index] = True
        if noted:
            result.unsaid_bits[index] = max(noted)
        if frames:
            result.frames[index] = max(frames)
        result.sizes[index] = image.shape[:2]
        digest = hashlib.blake2b(
            repr(image.shape).encode() + np.ascontiguousarray(image).tobytes(), digest_size=16
        )
        result.content[index] = np.void(digest.digest())
        result.perceptual[index] = perceptual_hash(image)
        result.contrast[index] = image.std(axis=(0, 1), dtype=np.float32).max()
        result.smoothness[index] = smoothness(image)
        return Image.fromarray(resize(image, TEMPLATE_SIZE)).convert("L")

    def features_of_chunks(indices: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(readable images, their features), chunk by chunk; adds to the average."""
        for chunk, faces in _in_chunks(read, indices, threads, progress):
            seen = [index for index, face in zip(chunk, faces, strict=True) if face is not None]
            greys = [np.asarray(face) for face in faces if face is not None]
            result.mean_face[:] += sum(greys, start=np.zeros(result.mean_face.shape))
            small = [
                np.asarray(face.resize((SIDE, SIDE), Image.Resampling.BOX))
                for face in faces
                if face is not None
            ]
            if seen:
                yield np.array(seen), upright_features(np.stack(small))

    sample = np.unique(np.linspace(0, count - 1, min(count, _SAMPLE)).astype(np.int64))
    first = list(features_of_chunks(sample))
    classifier = None
    if first:
        seen, features = (np.concatenate(part) for part in zip(*first, strict=True))
        halves = np.asarray(source.labels)[seen] % 2
        classifier = fit_upright(features, halves)
        if classifier is not None:
            result.upright[seen], result.quarters[seen] = classifier.judge(features, halves)
    for seen, features in features_of_chunks(np.setdiff1d(np.arange(count), sample)):
        if classifier is not None:
            result.upright[seen], result.quarters[seen] = classifier.judge(features)
    result.mean_face[:] /= max(result.readable.sum(), 1)
    return result


def smoothness(image: np.ndarray) -> float:
    """The correlation of neighbouring grey pixels, in [−1, 1]; 1 for a constant image.

    Images of over 64 pixels are first reduced by an integer factor to 32 or a little more. White
    noise has 0 ± .02 at 32×32. Lowest measured values: .60 for LFW's photographs, .61 for
    Omniglot's characters, .67 for drawn faces, .83 for ORL.

    Args:
      image: uint8 [height, width, 3].
    """
    grey = Image.fromarray(image).convert("L")
    factor = max(1, min(grey.size) // 32)
    pixels = np.asarray(grey.reduce(factor), np.float64)
    return (_correlation(pixels[1:], pixels[:-1]) + _correlation(pixels[:, 1:], pixels[:, :-1])) / 2


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    if not first.size:
        return 1.0
    first, second = first - first.mean(), second - second.mean()
    scale = np.sqrt(np.square(first).sum() * np.square(second).sum())
    return float((first * second).sum() / scale) if scale > 0 else 1.0


def perceptual_hash(image: np.ndarray) -> np.ndarray:
    """256 bits, uint8 [32]: which of the lowest spatial frequencies are above their median.

    The image is reduced to 32×32 grey pixels. The bits are the signs of the 16×16 lowest
    coefficients of its discrete cosine transform, minus the median of all but the mean. Scaling,
    re-encoding and changes of brightness or contrast keep nearly all bits.
    """
    side = 2 * _HASH_SIDE
    grey = Image.fromarray(image).convert("L").resize((side, side), Image.Resampling.BOX)
    lowest = dctn(np.asarray(grey, np.float64), norm="ortho")[:_HASH_SIDE, :_HASH_SIDE].ravel()
    return np.packbits(lowest > np.median(lowest[1:]))


def near_pairs(
    hashes: np.ndarray, bits: int = _NEAR_BITS
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Pairs of images whose perceptual hashes differ in few bits.

    Measured over all 87.5 million pairs of LFW: the 17 that differ in at most 32 bits show one
    photograph twice, five of them under two names; the closest two people differ in 44 bits. The
    closest images of two ORL people, or of two drawn ones, differ in over 50, of two Omniglot
    characters in over 40. The average is 121. So 30 bits are safe between sets, too. ORL has eight
    pairs of one person, of 16 bits or more, taken in one moment. Copies re-encoded at quality 20 or
    scaled to a half differ in up to 28; copies that are mirrored, framed, or cropped by 3 % at each
    edge are not found.

    Only images that share one of the sixteen 16-bit words are compared. This finds all pairs with
    up to 15 differing bits, and nine in ten random patterns of 30. Words shared by over 400 images
    are joined with the next word.

    Args:
      hashes: uint8 [N, 32]; few of them equal.
      bits: the largest number of differing bits.

    Yields: (i, j, differing bits), int arrays [M] with i < j; a pair may come several times.
    """
    words, wide = hashes.view(np.uint16), hashes.view(np.uint64)
    columns = words.shape[1]
    pending = [(np.arange(len(hashes)), column, 1) for column in range(columns)]
    while pending:
        members, column, depth = pending.pop()
        order = members[np.argsort(words[members, column], kind="stable")]
        values = words[order, column]
        starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]])
        lengths = np.diff(np.r_[starts, len(order)])
        for start, length in zip(starts[lengths > 1], lengths[lengths > 1], strict=True):
            group = order[start : start + length]
            if length > _CROWDED and depth < columns:
                pending.append((group, (column + 1) % columns, depth + 1))
                continue
            distance = np.bitwise_count(wide[group, None] ^ wide[None, group]).sum(
                axis=2, dtype=np.int32
            )
            left, right = np.nonzero(np.triu(distance <= bits, k=1))
            if len(left):
                yield group[left], group[right], distance[left, right]


def eye_distance(mean_face: np.ndarray) -> float:
    """Distance of the average face's eyes from the template's, in pixels of the 112×112 crop.

    Eyes are the darkest small spots in the upper middle of an average face. It is made symmetric
    first, so one spot gives both eyes. For aligned crops the distance is a few pixels; without
    alignment the average has no such spots, and the darkest lies elsewhere.

    Args:
      mean_face: [112, 112], grey.
    """
    symmetric = (mean_face + mean_face[:, ::-1]) / 2
    spots = gaussian_filter(symmetric, 2.5) - gaussian_filter(symmetric, 10.0)
    top, left = 32, 20
    found = np.unravel_index(np.argmin(spots[top:76, left:53]), (76 - top, 53 - left))
    eye_x = (TEMPLATE[0, 0] + TEMPLATE_SIZE - 1 - TEMPLATE[1, 0]) / 2
    eye_y = TEMPLATE[:2, 1].mean()
    return float(np.hypot(found[1] + left - eye_x, found[0] + top - eye_y))


def _in_chunks(
    action: Callable[[int], _T],
    indices: np.ndarray,
    threads: int,
    progress: Callable[[int], None] | None,
) -> Iterator[tuple[list[int], list[_T]]]:
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(indices), _CHUNK):
            chunk = indices[start : start + _CHUNK].tolist()
            yield chunk, list(pool.map(action, chunk))
            if progress is not None:
                progress(len(chunk))
