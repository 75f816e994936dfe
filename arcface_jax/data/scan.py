"""One pass over a data set's images: which are readable or equal, and the average face."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from PIL import Image
from scipy.fft import dctn
from scipy.ndimage import gaussian_filter

from arcface_jax.data.aligned_crop import TEMPLATE, TEMPLATE_SIZE
from arcface_jax.data.decode import resize
from arcface_jax.data.source import FaceSource
from arcface_jax.errors import InputError

_T = TypeVar("_T")

_HASH_SIDE = 16
_NEAR_BITS = 15
_CROWDED = 400
_CHUNK = 512


@dataclasses.dataclass(frozen=True)
class Scan:
    """What one pass over the images found.

    Attributes:
      readable: bool [N].
      messages: index → why the image cannot be decoded.
      sizes: int32 [N, 2], height and width.
      content: 16 bytes [N], a digest of the pixels, equal for equal images.
      perceptual: uint8 [N, 32], a 256-bit hash that re-encoding hardly changes.
      mean_face: float64 [112, 112], the average of the readable images, grey.
    """

    readable: np.ndarray
    messages: dict[int, str]
    sizes: np.ndarray
    content: np.ndarray
    perceptual: np.ndarray
    mean_face: np.ndarray


def find_unreadable(
    source: FaceSource, threads: int = 4, progress: Callable[[int], None] | None = None
) -> dict[int, str]:
    """Decodes every image; index → message of those that cannot be."""

    def message(index: int) -> str | None:
        try:
            source[index]
        except InputError as error:
            return str(error)
        return None

    found: dict[int, str] = {}
    for chunk, results in _in_chunks(message, len(source), threads, progress):
        found.update(
            (index, text) for index, text in zip(chunk, results, strict=True) if text is not None
        )
    return found


def scan(
    source: FaceSource, threads: int = 4, progress: Callable[[int], None] | None = None
) -> Scan:
    """Reads every image once.

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
        mean_face=np.zeros((TEMPLATE_SIZE, TEMPLATE_SIZE)),
    )

    def read(index: int) -> np.ndarray | None:
        try:
            image = source[index]
        except InputError as error:
            result.messages[index] = str(error)
            return None
        result.readable[index] = True
        result.sizes[index] = image.shape[:2]
        digest = hashlib.blake2b(
            repr(image.shape).encode() + np.ascontiguousarray(image).tobytes(), digest_size=16
        )
        result.content[index] = np.void(digest.digest())
        result.perceptual[index] = perceptual_hash(image)
        return np.asarray(Image.fromarray(resize(image, TEMPLATE_SIZE)).convert("L"))

    total = 0
    for _, greys in _in_chunks(read, count, threads, progress):
        for grey in greys:
            if grey is not None:
                result.mean_face[:] += grey
                total += 1
    result.mean_face[:] /= max(total, 1)
    return result


def perceptual_hash(image: np.ndarray) -> np.ndarray:
    """256 bits, uint8 [32]: which of the lowest spatial frequencies are above their median.

    The image is reduced to 32×32 grey pixels; the bits are the signs of the 16×16 lowest
    coefficients of its discrete cosine transform, less the median of all but the mean. Scaling,
    re-encoding and changes of brightness or contrast leave nearly all of them as they are.
    """
    side = 2 * _HASH_SIDE
    grey = Image.fromarray(image).convert("L").resize((side, side), Image.Resampling.BOX)
    lowest = dctn(np.asarray(grey, np.float64), norm="ortho")[:_HASH_SIDE, :_HASH_SIDE].ravel()
    return np.packbits(lowest > np.median(lowest[1:]))


def overlap(first: Scan, second: Scan) -> np.ndarray:
    """int64 [M, 2]: equal images of two scanned sources, such as training and test set, by index.

    Near copies are left out: the faces of different people can look alike.
    """
    index_of = {
        found.tobytes(): index for index, found in enumerate(first.content) if first.readable[index]
    }
    pairs = [
        (index_of[found.tobytes()], index)
        for index, found in enumerate(second.content)
        if second.readable[index] and found.tobytes() in index_of
    ]
    return np.array(pairs, np.int64).reshape(-1, 2)


def near_pairs(hashes: np.ndarray, readable: np.ndarray, bits: int = _NEAR_BITS) -> np.ndarray:
    """Pairs of images whose perceptual hashes differ in few bits.

    Two hashes that differ in at most `bits` < 16 bits agree in one of their sixteen 16-bit words,
    so only images that share a word are compared. Words that over 400 images share (flat
    backgrounds) are skipped; pairs that agree in no other word are then missed.

    Args:
      hashes: uint8 [N, 32].
      readable: bool [N], which of them count.
      bits: the largest number of differing bits.

    Returns: int64 [M, 2], i < j, sorted.
    """
    words = hashes.view(np.uint16)
    usable = np.flatnonzero(readable)
    found: set[tuple[int, int]] = set()
    for column in range(words.shape[1]):
        order = usable[np.argsort(words[usable, column], kind="stable")]
        values = words[order, column]
        starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]])
        for start, stop in zip(starts, np.r_[starts[1:], len(order)], strict=True):
            if 2 <= stop - start <= _CROWDED:
                group = order[start:stop]
                distance = np.bitwise_count(hashes[group, None] ^ hashes[None, group]).sum(
                    axis=2, dtype=np.int32
                )
                left, right = np.nonzero(np.triu(distance <= bits, k=1))
                found.update(zip(group[left].tolist(), group[right].tolist(), strict=True))
    return np.array(sorted((min(pair), max(pair)) for pair in found), np.int64).reshape(-1, 2)


def eye_distance(mean_face: np.ndarray) -> float:
    """Distance of the average face's eyes from the template's, in pixels of the 112×112 crop.

    Eyes are the darkest small spots in the upper middle of an average face. It is made symmetric
    first, so that one place says where both are. Of aligned crops the distance is a few pixels;
    where eyes lie anywhere, the average has no such spots, and the darkest is some other place.

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
    action: Callable[[int], _T], count: int, threads: int, progress: Callable[[int], None] | None
) -> Iterator[tuple[Sequence[int], list[_T]]]:
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, count, _CHUNK):
            chunk = range(start, min(start + _CHUNK, count))
            yield chunk, list(pool.map(action, chunk))
            if progress is not None:
                progress(len(chunk))
