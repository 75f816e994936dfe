"""Paths in object storage, s3:// and gs://, which go wherever a local path goes.

`as_path` makes a `pathlib.Path` of what a user gives, or a `BucketPath`, which is one too. fsspec
does the transfers, with s3fs or gcsfs; these find the credentials themselves (environment, file or
machine), and nothing here reads or keeps them.

A bucket has no folders, no appending and no renaming: a name's content is there whole or not at
all, and a folder is there as long as something lies in it.

`requests` asks the storage; `entry`, `uploads` and `ranged`, which has a local `cache`, ask by it
and take paths as text; `path` makes a `pathlib.Path` of them. Above it, `cached_reads` reads files
that stay as they are, `local_copies` serves what knows local files alone, in folders of `scratch`.
"""

from arcface_jax.buckets.cached_reads import path_or_file, read_file, read_range
from arcface_jax.buckets.local_copies import kept_copy, written_locally
from arcface_jax.buckets.path import BucketPath, as_path, refuse_credentials
from arcface_jax.buckets.ranged import BLOCK, RangedFile
from arcface_jax.buckets.scratch import is_alive, scratch_folder

__all__ = [
    "BLOCK",
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
