"""Farthest-point sampling: a few points, so that no point is far from all of them."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sgpo.errors import InputError, check_whole
from sgpo.store.progress import Advance

# Distances this close count as equal, and the lowest row is taken: float32 products of long rows are not more exact,
# and which of two equal rows comes out larger depends on the machine's matrix kernels.
TIE = 1e-6
_CHUNK_BYTES = 2**26
# A few products with rows that stay in the processor's cache cost little more than one, and less than a matrix product
# with so few columns.
_CACHED_BYTES = 2**21
_FEW = 8
_CANDIDATE_BYTES = 2**26
_LONGEST_RUN = 256


@dataclass(frozen=True)
class FarthestPoints:
    """Rows of the picks, (k,) int64 in the order of picking, so that the first j are the picks for k = j; and the
    coverage radius of all, and (k,) of the first 1, ..., k: the largest cosine distance of a point to its nearest
    pick."""

    rows: np.ndarray
    radius: float
    radii: np.ndarray


def farthest_points(
    embeddings: np.ndarray,
    k: int,
    *,
    seed: int = 0,
    exclude: np.ndarray | None = None,
    device: str | torch.device | None = None,
    progress: Advance | None = None,
) -> FarthestPoints:
    """Picks k of N points, each the farthest from all earlier picks (greedy k-centre), by cosine distance.

    No k points have a coverage radius below a quarter of this one: greedy picks are within a factor of two in a metric,
    such as the Euclidean distance of unit vectors, and cosine distance is half its square.

    The picks are those of the plain algorithm, which takes k matrix-vector products, usually in much less time.
    Distances only shrink, so between two passes over all points the next picks are found among the candidates that were
    farthest in the last pass, as long as one of them is farther than every other point was then. Memory beyond the
    embeddings is O(N + k d) and two blocks of 64 MiB, so `embeddings` may be a memory map. An accelerator must hold all
    embeddings in its memory.

    Args:
        embeddings: (N, d) float16, float32 or float64, finite, no row zero; their lengths are ignored.
        k: number of picks, 1 to the number of points that are not excluded.
        seed: seed of the first pick, >= 0.
        exclude: rows that are neither picked nor covered.
        device: such as "cuda"; None uses the CPU.
        progress: called with the number of points newly picked.

    Raises:
        InputError: an argument is out of range; a row of the embeddings is named.

    Source: Gonzalez, Clustering to minimize the maximum intercluster distance, 1985; arXiv:2502.18099, Section 4.
    """
    allowed = _allowed_rows(embeddings, k, exclude)
    check_whole("seed", seed, 0)
    start = int(np.flatnonzero(allowed)[np.random.default_rng(seed).integers(allowed.sum())])
    points = _Points(embeddings, torch.device(device or "cpu"))
    distance = torch.where(torch.from_numpy(allowed).to(points.device), torch.inf, -1.0)
    distance[start] = -1
    rows, radii, fresh = [], [], [start]
    while True:
        rows += fresh
        if progress is not None:
            progress(len(fresh))
        points.update(distance, fresh)
        radius = max(float(distance.max()), 0.0)
        radii.append(radius)
        if len(rows) == k:
            return FarthestPoints(np.array(rows, dtype=np.int64), radius, np.array(radii))
        fresh = [_farthest(distance, radius)]
        distance[fresh[0]] = -1
        radii += _run(points, distance, fresh, min(k - len(rows), _LONGEST_RUN))


def _run(points: "_Points", distance: Tensor, fresh: list[int], limit: int) -> list[float]:
    """Picks among the candidates only, while these picks are certain to be those of the plain algorithm. Appends them
    to `fresh`, which holds one, up to `limit`, and returns the coverage radius after each pick but the last."""
    largest = torch.topk(distance, points.candidates + 1)
    others, rows = float(largest.values[-1]), largest.indices[:-1].sort().values
    candidates = points.unit_rows(rows)
    near = distance[rows]
    radii = []
    while len(fresh) < limit:
        torch.minimum(near, 1 - candidates @ points.unit(fresh[-1]), out=near)
        radius = float(near.max())
        # The other points are no farther now than they were.
        if radius <= others + 2 * TIE:
            break
        radii.append(max(radius, 0.0))
        place = _farthest(near, radius)
        near[place] = -1
        fresh.append(int(rows[place]))
        distance[fresh[-1]] = -1
    return radii


def _farthest(distance: Tensor, largest: float) -> int:
    """The lowest place whose distance is the largest, up to rounding; picks and excluded rows are at -1."""
    return int((distance >= max(largest - TIE, -0.5)).to(torch.uint8).argmax())


class _Points:
    """Embeddings as unit vectors in float32, computed chunk by chunk."""

    def __init__(self, embeddings: np.ndarray, device: torch.device) -> None:
        with warnings.catch_warnings():
            # PyTorch warns about read-only memory maps; nothing here writes to them.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            self._stored = torch.from_numpy(embeddings).to(device)
        self.device = device
        self._row_bytes = 4 * embeddings.shape[1]
        self.candidates = max(1, min(len(embeddings) // 16, _CANDIDATE_BYTES // self._row_bytes))
        lengths = torch.cat([_lengths(chunk) for (chunk,) in self._chunks(_CHUNK_BYTES, self._stored)])
        bad = ~((lengths > 0) & torch.isfinite(lengths))
        if bad.any():
            row = int(bad.to(torch.uint8).argmax())
            raise InputError(f"embeddings row {row} has the length {lengths[row]}; allowed: finite and above 0.")
        self._scale = (1 / lengths).float()

    def _chunks(self, size: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Views of the same rows of each tensor, as many as have `size` bytes as points."""
        return zip(*(tensor.split(max(1, size // self._row_bytes)) for tensor in tensors), strict=True)

    def unit(self, row: int) -> Tensor:
        vector = self._stored[row].double()
        return (vector / torch.linalg.vector_norm(vector)).float()

    def unit_rows(self, rows: Tensor) -> Tensor:
        return self._stored[rows].float().mul_(self._scale[rows].unsqueeze(1))

    def update(self, distance: Tensor, picks: list[int]) -> None:
        """Updates the (N,) distances with further picks, in one pass over the points."""
        centres = torch.stack([self.unit(row) for row in picks])
        few = len(picks) <= _FEW and self.device.type == "cpu"
        size = _CACHED_BYTES if few else _CHUNK_BYTES
        for stored, scale, near in self._chunks(size, self._stored, self._scale, distance):
            chunk = stored.float()
            if few:
                similarity = chunk @ centres[0]
                for centre in centres[1:]:
                    torch.maximum(similarity, chunk @ centre, out=similarity)
            else:
                similarity = torch.nn.functional.linear(chunk, centres).amax(dim=1)
            torch.minimum(near, 1 - similarity.mul_(scale), out=near)


def _lengths(rows: Tensor) -> Tensor:
    """(M,) float64 Euclidean lengths, computed in float32, several times faster, if their squares fit."""
    lengths = torch.linalg.vector_norm(rows.float(), dim=1).double()
    if bool(((lengths > 1e-12) & (lengths < 1e15)).all()):
        return lengths
    return torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)


def _allowed_rows(embeddings: np.ndarray, k: int, exclude: np.ndarray | None) -> np.ndarray:
    """(N,) whether a point may be picked."""
    if embeddings.ndim != 2 or embeddings.dtype not in (np.float16, np.float32, np.float64):
        raise InputError(
            f"embeddings is {embeddings.dtype} of shape {embeddings.shape}; allowed: (N, d) float16, float32, float64."
        )
    allowed = np.ones(len(embeddings), dtype=bool)
    if exclude is not None:
        allowed[exclude] = False
    if not 1 <= k <= allowed.sum():
        raise InputError(f"k is {k}; allowed: 1 to {allowed.sum()}, the number of points to pick from.")
    return allowed
