"""Models in and out: PyTorch, ONNX and MXNet files of other projects, StableHLO, quantisation.

No code in a file is ever run.
"""
