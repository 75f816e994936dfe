"""Models in and out: PyTorch checkpoints and ONNX files of other projects, StableHLO, quantisation.

Nothing that a file contains is run.
"""
