"""Content-defined chunking: FastCDC with pinned parameters.

The cuts are those of FastCDC as published in 2020 (Xia et al., "The Design of Fast Content-Defined
Chunking for Data Deduplication Based Storage Systems", IEEE TPDS 31(9)), normalised chunking at
level 2. The parameters stand in the superblock; golden vectors in the tests pin the cuts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from msgspec import Struct
from pyfastcdc import FastCDC

from dtafs.errors import UnsupportedError

ALGORITHM = "fastcdc-2020"


class ChunkParameters(Struct, frozen=True):
    """How contents are cut; all sizes in bytes. The superblock holds one of these."""

    algorithm: str = ALGORITHM
    minimum: int = 16 * 1024
    average: int = 64 * 1024
    maximum: int = 256 * 1024
    normalization: Literal[0, 1, 2, 3] = 2
    seed: int = 0


CHUNK_LIMIT_BYTES = 1024 * 1024
"""No reader accepts a chunk or frame that claims to be larger."""


class Chunker:
    """Cuts buffers. Not thread-safe: one for each thread."""

    def __init__(self, parameters: ChunkParameters) -> None:
        """Raises UnsupportedError for parameters that this release cannot follow."""
        if parameters.algorithm != ALGORITHM:
            raise UnsupportedError(
                f"this lake cuts chunks by {parameters.algorithm!r}, which is unknown"
            )
        if (
            not 0
            < parameters.minimum
            <= parameters.average
            <= parameters.maximum
            <= CHUNK_LIMIT_BYTES
        ):
            raise UnsupportedError("the chunk sizes in the superblock are out of range")
        self.parameters = parameters
        self._cdc = FastCDC(
            avg_size=parameters.average,
            min_size=parameters.minimum,
            max_size=parameters.maximum,
            normalized_chunking=parameters.normalization,
            seed=parameters.seed,
        )

    def cuts(self, data: memoryview, final: bool) -> Iterator[memoryview]:
        """The chunks of `data`, in order.

        Unless `final`, the last chunk is left out when more data could still move its end; the
        caller passes those bytes again, followed by more.
        """
        end = len(data)
        if final and 0 < end <= self.parameters.minimum:  # most files of many a tree
            yield data
            return
        for chunk in self._cdc.cut_buf(data):
            start, size = chunk.offset, chunk.length
            if not final and start + size == end and size < self.parameters.maximum:
                return
            yield data[start : start + size]
