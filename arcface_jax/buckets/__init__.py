"""Paths in object storage, s3:// and gs://, which go wherever a local path goes.

`as_path` makes a `pathlib.Path` of what a user gives, or a `BucketPath`, which is one too. fsspec
does the transfers, with s3fs or gcsfs; these find the credentials themselves (environment, file or
machine), and nothing here reads or keeps them.

A bucket has no folders, no appending and no renaming: a name's content is there whole or not at
all, and a folder is there as long as something lies in it.

`requests` asks the storage, and all other files build on it. `entry`, `uploads`, `ranged` and
`cache` know paths as text; `path` makes `pathlib.Path`s of it, and `cached_reads`, `local_copies`
and `scratch` serve libraries that need local files.
"""

from arcface_jax.buckets.cached_reads import path_or_file, read_file, read_range
from arcface_jax.buckets.local_copies import kept_copy, written_locally
from arcface_jax.buckets.path import BucketPath, as_path, refuse_credentials
from arcface_jax.buckets.ranged import RangedFile
from arcface_jax.buckets.scratch import is_alive, scratch_folder

__all__ = [
    "BucketPath",
    "RangedFile",
    "as_path",
    "is_alive",
    "kept_copy",
    "path_or_file",
    "read_file",
    "read_range",
    "refuse_credentials",
    "scratch_folder",
    "written_locally",
]
