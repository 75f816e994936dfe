"""PNG files with any depth, chunk and order of chunks, which Pillow does not write."""

import struct
import zlib

import numpy as np

_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}


def chunk(kind: bytes, content: bytes) -> bytes:
    """One chunk with its checksum."""
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def png(samples: np.ndarray, before: bytes = b"", behind: bytes = b"", depth: int = 16) -> bytes:
    """A file of samples [height, width, channels], with chunks before and behind the pixels. Fewer
    than 8 bits are of grey, and fill whole bytes.
    """
    height, width, channels = samples.shape
    header = struct.pack(">IIBBBBB", width, height, depth, _COLOUR_TYPES[channels], 0, 0, 0)
    if depth == 16:
        rows = samples.astype(">u2").reshape(height, -1).view(np.uint8)
    else:
        bits = np.unpackbits(samples.astype(np.uint8), axis=2)[..., -depth:]
        rows = np.packbits(bits.reshape(height, -1), axis=1)
    pixels = zlib.compress(np.pad(rows, ((0, 0), (1, 0))).tobytes())
    chunks = chunk(b"IHDR", header) + before + chunk(b"IDAT", pixels) + behind
    return b"\x89PNG\r\n\x1a\n" + chunks + chunk(b"IEND", b"")
