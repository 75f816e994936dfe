"""The ArcFace paper's own figures, to compare with a study's.

References: Deng et al., ArcFace (arXiv:1801.07698), Tables 2 and 3.
"""

ANGLE_ROWS = ("w_ec", "w_inter", "intra1", "inter1", "intra2", "inter2")
"""Rows of Table 3: 1 is the training set, 2 are unseen people."""

ANGLES = {
    "normface": dict(zip(ANGLE_ROWS, (44.26, 69.66, 50.50, 59.23, 33.97, 65.60), strict=True)),
    "arcface": dict(zip(ANGLE_ROWS, (14.29, 71.61, 38.45, 65.83, 28.05, 66.55), strict=True)),
    "intra": dict(zip(ANGLE_ROWS, (8.83, 31.34, 17.50, 24.07, 12.94, 26.28), strict=True)),
    "inter": dict(zip(ANGLE_ROWS, (46.85, 75.66, 52.74, 62.40, 35.38, 67.90), strict=True)),
    "triplet": dict(zip(ANGLE_ROWS[2:], (41.19, 50.23, 27.42, 55.94), strict=True)),
}
"""Table 3, degrees, by loss; 1 is CASIA-WebFace, 2 is LFW. The triplet loss has no class weights.
"""

AGEDB_ACCURACY = {
    "arcface_m0.4": 94.98,
    "arcface_m0.45": 94.93,
    "arcface": 95.15,
    "arcface_m0.55": 95.05,
    "sphereface": 91.70,
    "cosface": 94.56,
    "cm1": 94.38,
    "cm2": 94.86,
    "softmax": 92.33,
    "normface": 88.72,
    "triplet": 89.98,
}
"""Table 2, last column: accuracy on AgeDB-30 in percent, where the losses differ most."""
