"""From images on disk to batches on the devices.

`sources` reads the formats and `synthetic` draws faces; each is a `source.FaceSource`. `pipeline`
and `samplers` turn it into batches; `check`, `align`, `convert` and `pairs` work on it.
"""
