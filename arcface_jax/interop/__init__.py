"""Models in and out: PyTorch, ONNX and MXNet files of other projects, StableHLO, quantisation.

Nothing that a file contains is run.
"""
