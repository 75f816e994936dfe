"""From images on disk to batches on the devices.

`sources` reads the formats and `synthetic` draws faces; both are a `source.FaceSource`, which
`pipeline` and `samplers` turn into batches and `check`, `align`, `convert` and `pairs` work on.
"""
