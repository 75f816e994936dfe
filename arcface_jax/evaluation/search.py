"""One-to-many search: every probe against every gallery entry, without a score matrix.

The gallery streams through in chunks of rows (divided over the devices, if there are several), and
each probe keeps a few numbers. So the gallery may be a memory map of any length.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from arcface_jax.counts import number_of
from arcface_jax.errors import InputError
from arcface_jax.evaluation.array_checks import check_embeddings, check_length
from arcface_jax.evaluation.scoring import DEVICE_AXIS, DIVIDED, WHOLE, device_mesh, padded

_PADDING = -1  # the identity of rows that fill up the last chunk


@dataclasses.dataclass(frozen=True)
class Search:
    """Search results for P probes; a *mate* is a gallery entry of the probe's identity.

    Attributes:
      mate: float32 [P], the highest score of a mate; −∞ if the gallery has none.
      enrolled: bool [P], whether the gallery has a mate.
      impostor: float32 [P], the highest score of an entry of another identity; −∞ if there is none.
      impostor_index: int64 [P], that entry (the first of equals); −1 if there is none.
      rank: int64 [P], 1 + the number of entries of other identities that score at least as high as
        the best mate: a tie counts against the probe. 0 if it has no mate.
    """

    mate: np.ndarray
    enrolled: np.ndarray
    impostor: np.ndarray
    impostor_index: np.ndarray
    rank: np.ndarray


def search_gallery(
    gallery: np.ndarray,
    gallery_labels: np.ndarray,
    probes: np.ndarray,
    probe_labels: np.ndarray,
    *,
    devices: Sequence[jax.Device] | None = None,
    gallery_chunk: int = 4096,
    probe_chunk: int = 256,
) -> Search:
    """Searches a gallery for each probe; `identification` turns the result into rates.

    The score is the cosine. A first pass finds each probe's best mate, looking only at the chunks
    that hold one; a second compares all entries with it. Both multiply tiles of the same shape, so
    equal embeddings get equal scores and ties stay ties.

    Args:
      gallery: [G, D], unit rows; read in slices, so it may be a memory map.
      gallery_labels: int [G], identities; several entries may share one. Distractors need labels
        that no probe has.
      probes: [P, D], unit rows.
      probe_labels: int [P].
      devices: the devices to divide each gallery chunk over; the default device if None.
      gallery_chunk: gallery rows in memory at a time.
      probe_chunk: probes compared at a time.

    Raises:
      InputError: mismatched lengths, or a row that is NaN or not of unit norm; the message gives
        the row.
    """
    probes = check_embeddings(probes, "probes")
    gallery_ids, probe_ids = _common_identities(gallery, gallery_labels, probes, probe_labels)
    stream = _GalleryStream(gallery, gallery_ids, device_mesh(devices), gallery_chunk)
    probe_chunk = min(probe_chunk, len(probes))
    best_mate, compare = _search_programs(stream.mesh)

    mate = np.full(len(probes), -np.inf, np.float32)
    for chunk in stream:
        (wanted,) = np.nonzero(np.isin(probe_ids, gallery_ids[chunk.start : chunk.stop]))
        for rows in _batches(wanted, probe_chunk):
            found = best_mate(
                *_pad_probes(probes, probe_ids, rows, probe_chunk),
                chunk.embeddings,
                chunk.identities,
            )
            mate[rows] = np.maximum(mate[rows], np.asarray(found)[: len(rows)])

    batches = [
        (
            rows,
            _pad_probes(probes, probe_ids, rows, probe_chunk),
            np.pad(mate[rows], (0, probe_chunk - len(rows))),
        )
        for rows in _batches(np.arange(len(probes)), probe_chunk)
    ]
    impostor = np.full(len(probes), -np.inf, np.float32)
    impostor_index, not_below = np.full(len(probes), -1), np.zeros(len(probes), np.int64)
    for chunk in stream:
        for rows, batch, batch_mate in batches:
            results = compare(*batch, chunk.embeddings, chunk.identities, batch_mate)
            best, index, count = (np.asarray(x)[: len(rows)] for x in results)
            better = best > impostor[rows]
            impostor[rows] = np.where(better, best, impostor[rows])
            impostor_index[rows] = np.where(better, chunk.start + index, impostor_index[rows])
            not_below[rows] += count
    enrolled = np.isin(probe_ids, gallery_ids)
    return Search(mate, enrolled, impostor, impostor_index, np.where(enrolled, 1 + not_below, 0))


@dataclasses.dataclass(frozen=True)
class Candidates:
    """The k best gallery entries for each probe.

    Attributes:
      scores: float32 [P, k], descending.
      indices: int64 [P, k], gallery rows; of equal scores the first row comes first.
    """

    scores: np.ndarray
    indices: np.ndarray

    def accepted(self, threshold: float) -> np.ndarray:
        """bool [P]: whether the best candidate reaches the threshold; the others are unknown."""
        return self.scores[:, 0] >= threshold


def search_candidates(
    gallery: np.ndarray,
    probes: np.ndarray,
    k: int = 1,
    *,
    devices: Sequence[jax.Device] | None = None,
    gallery_chunk: int = 4096,
    probe_chunk: int = 256,
) -> Candidates:
    """The k highest cosines of each probe with the gallery, exactly (no index, no approximation).

    Args:
      gallery: [G, D], unit rows; read in slices, so it may be a memory map.
      probes: [P, D], unit rows.
      k: candidates per probe, at most G.
      devices: the devices to divide each gallery chunk over; the default device if None.
      gallery_chunk: gallery rows in memory at a time.
      probe_chunk: probes compared at a time.
    """
    probes = check_embeddings(probes, "probes")
    if not 1 <= k <= len(gallery):
        raise InputError(
            f"k: {number_of(k, 'candidate')} of {number_of(len(gallery), 'gallery entry')}; give "
            f"from 1 to {len(gallery)}"
        )
    stream = _GalleryStream(
        gallery, np.zeros(len(gallery), np.int32), device_mesh(devices), gallery_chunk
    )
    probe_chunk = min(probe_chunk, len(probes))
    top = _candidate_program(stream.mesh, min(k, stream.length // stream.mesh.size))
    scores, indices = np.full((len(probes), k), -np.inf, np.float32), np.full((len(probes), k), -1)
    for chunk in stream:
        for rows in _batches(np.arange(len(probes)), probe_chunk):
            batch = _pad_probes(probes, np.zeros(len(probes), np.int32), rows, probe_chunk)[0]
            found, where = (
                np.asarray(x)[: len(rows)] for x in top(batch, chunk.embeddings, chunk.identities)
            )
            merged = np.concatenate([scores[rows], found], axis=1)
            order = np.argsort(-merged, axis=1, kind="stable")[:, :k]
            scores[rows] = np.take_along_axis(merged, order, axis=1)
            merged_indices = np.concatenate([indices[rows], chunk.start + where], axis=1)
            indices[rows] = np.take_along_axis(merged_indices, order, axis=1)
    return Candidates(scores, indices)


@dataclasses.dataclass(frozen=True)
class _Chunk:
    start: int
    stop: int
    embeddings: jax.Array
    identities: jax.Array


class _GalleryStream:
    """Gallery chunks of equal shape on the devices; the last is padded with `_PADDING`."""

    def __init__(
        self, gallery: np.ndarray, identities: np.ndarray, mesh: Mesh, length: int
    ) -> None:
        self.gallery, self.identities, self.mesh = gallery, identities, mesh
        self.length = -(-min(length, len(gallery)) // mesh.size) * mesh.size
        self._sharding = NamedSharding(mesh, DIVIDED)

    def __iter__(self):  # type: ignore[no-untyped-def]
        for start in range(0, len(self.gallery), self.length):
            stop = min(start + self.length, len(self.gallery))
            rows = check_embeddings(
                self.gallery[start:stop], "gallery", rows=np.arange(start, stop)
            ).astype(np.float32)
            padding = self.length - len(rows)
            identities = np.pad(self.identities[start:stop], (0, padding), constant_values=_PADDING)
            put = functools.partial(jax.device_put, device=self._sharding)
            yield _Chunk(start, stop, put(np.pad(rows, ((0, padding), (0, 0)))), put(identities))


def _batches(rows: np.ndarray, length: int) -> list[np.ndarray]:
    return [rows[start : start + length] for start in range(0, len(rows), length)]


def _pad_probes(
    probes: np.ndarray, identities: np.ndarray, rows: np.ndarray, length: int
) -> tuple[np.ndarray, np.ndarray]:
    filled = np.pad(identities[rows], (0, length - len(rows)), constant_values=_PADDING)
    return padded(probes[rows], length), filled


def _common_identities(
    gallery: np.ndarray, gallery_labels: np.ndarray, probes: np.ndarray, probe_labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Both label vectors as int32, numbered alike."""
    check_length(gallery_labels, len(gallery), "gallery_labels", "rows")
    check_length(probe_labels, len(probes), "probe_labels", "rows")
    if gallery.ndim != 2 or len(gallery) == 0 or gallery.shape[1] != probes.shape[1]:
        raise InputError(
            f"gallery: shape {gallery.shape}, probes {probes.shape}; give [G, D] and [P, D]"
        )
    _, numbers = np.unique(np.concatenate([gallery_labels, probe_labels]), return_inverse=True)
    numbers = numbers.astype(np.int32)
    return numbers[: len(gallery)], numbers[len(gallery) :]


def _over_devices(function: Callable, mesh: Mesh, num_replicated_after: int) -> jax.stages.Wrapped:
    """jit of a function of (probes, probe ids, gallery shard, gallery id shard, replicated …)."""
    specs = (WHOLE, WHOLE, DIVIDED, DIVIDED) + (WHOLE,) * num_replicated_after
    return jax.jit(
        jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=WHOLE, check_vma=False)
    )


def _scores(probes: jax.Array, gallery: jax.Array) -> jax.Array:
    return jnp.matmul(probes, gallery.T, precision="highest")


@functools.cache
def _search_programs(mesh: Mesh) -> tuple[jax.stages.Wrapped, jax.stages.Wrapped]:
    """The two passes of `search_gallery`, each over a tile divided along the gallery."""

    def best_mate(
        probes: jax.Array, probe_ids: jax.Array, gallery: jax.Array, gallery_ids: jax.Array
    ) -> jax.Array:
        mates = probe_ids[:, None] == gallery_ids[None, :]
        return jax.lax.pmax(
            jnp.max(jnp.where(mates, _scores(probes, gallery), -jnp.inf), axis=1), DEVICE_AXIS
        )

    def compare(
        probes: jax.Array,
        probe_ids: jax.Array,
        gallery: jax.Array,
        gallery_ids: jax.Array,
        mate: jax.Array,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        others = (probe_ids[:, None] != gallery_ids[None, :]) & (gallery_ids != _PADDING)[None, :]
        # The barrier, the count in float32 (exact, a chunk being short) and the search for the
        # maximum's place instead of argmax halve the time of a tile on a CPU: each becomes one
        # vectorised pass over a tile in the cache.
        scores = jax.lax.optimization_barrier(jnp.where(others, _scores(probes, gallery), -jnp.inf))
        not_below = (scores >= mate[:, None]) & others
        count = jax.lax.psum(
            jnp.sum(not_below.astype(jnp.float32), axis=1).astype(jnp.int32), DEVICE_AXIS
        )
        local = jnp.max(scores, axis=1)
        best = jax.lax.pmax(local, DEVICE_AXIS)
        place = jnp.arange(len(gallery), dtype=jnp.int32) + jax.lax.axis_index(DEVICE_AXIS) * len(
            gallery
        )
        places = jnp.where(scores == best[:, None], place[None, :], jnp.iinfo(jnp.int32).max)
        first = jax.lax.pmin(jnp.min(places, axis=1), DEVICE_AXIS)
        return best, first, count

    return _over_devices(best_mate, mesh, 0), _over_devices(compare, mesh, 1)


@functools.cache
def _candidate_program(mesh: Mesh, k: int) -> Callable:
    """(probes, gallery, ids) → the k best of each device's part, part by part."""

    def top(
        probes: jax.Array, _: jax.Array, gallery: jax.Array, gallery_ids: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        scores = jnp.where((gallery_ids == _PADDING)[None, :], -jnp.inf, _scores(probes, gallery))
        best, index = jax.lax.top_k(scores, k)
        index = index + jax.lax.axis_index(DEVICE_AXIS) * len(gallery)
        return tuple(jax.lax.all_gather(x, DEVICE_AXIS, axis=1, tiled=True) for x in (best, index))

    program = _over_devices(top, mesh, 0)
    return lambda probes, gallery, ids: program(
        probes, np.zeros(len(probes), np.int32), gallery, ids
    )
