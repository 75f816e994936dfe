"""Paths in object storage, s3:// and gs://, which go wherever a local path goes.

`as_path` makes a `pathlib.Path` of what a user gives, or a `BucketPath`, which is one too. fsspec
does the transfers, with s3fs or gcsfs; these find the credentials themselves (environment, file or
machine), and nothing here reads or keeps them.

A bucket has no folders, no appending and no renaming: a name's content is there whole or not at
all, and a folder is there as long as something lies in it.
"""

from arcface_jax.buckets.cached_reads import read_file, read_range
from arcface_jax.buckets.local_copies import kept_copy, local_copy, written_locally
from arcface_jax.buckets.path import BucketPath, as_path, is_bucket, refuse_credentials
from arcface_jax.buckets.ranged import RangedFile
from arcface_jax.buckets.scratch import is_alive, scratch_folder

__all__ = [
    "BucketPath",
    "RangedFile",
    "as_path",
    "is_alive",
    "is_bucket",
    "kept_copy",
    "local_copy",
    "read_file",
    "read_range",
    "refuse_credentials",
    "scratch_folder",
    "written_locally",
]
