"""Where the five landmarks lie in the crop that face networks are trained on."""

import numpy as np

TEMPLATE = np.array(
    [
        [38.2946, 51.6963],  # left eye, as seen in the picture
        [73.5318, 51.5014],  # right eye
        [56.0252, 71.7366],  # tip of the nose
        [41.5493, 92.3655],  # left corner of the mouth
        [70.7299, 92.2041],  # right corner
    ]
)
"""Landmarks of a 112×112 crop: (x, y) in pixels, the centre of the first pixel at (0, 0)."""

TEMPLATE_SIZE = 112
