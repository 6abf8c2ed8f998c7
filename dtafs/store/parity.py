"""Parity files: made for a pack before anything refers to it, verified, and used to mend the pack.

Reed-Solomon by `zfec`, a byte of each shard at a time, so that any stretch of all shards can be
worked on by itself: memory is bounded by `STRIPE_BYTES` and the size of the parity, whatever the size
of the pack. What a mend gives is a temporary file that was compared with the pack's id.

A pack is published before its parity, and its parity is removed before the pack: so a parity file
without a pack means that the pack was lost. A crash in between leaves a pack without parity that
nothing refers to yet, or no longer.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from dtafs.core.format import pack_key
from dtafs.core.parity import (
    PARITY_HEAD,
    Parity,
    decode_parity_head,
    encode_parity_head,
    head_bytes_of,
    layout,
    parity_key,
    sum_of,
)
from dtafs.errors import IntegrityError
from dtafs.store.durable import Disk, TempFile, open_for_reading, read_at, translated

STRIPE_BYTES = 4 << 20
"""So much of a pack is worked on at a time."""

Read = Callable[[int, int], bytes]
"""Bytes of a pack from an offset, of a size; fewer where it ends before."""


def write_parity(disk: Disk, read: Read, size: int, pack: bytes, percent: int) -> TempFile:
    """The parity of a pack in a temporary file, to be published under `parity_key`. Blocks."""
    import zfec  # 26 ms, and most lakes have no parity

    shard, data, extra = layout(size, percent)
    encoder = zfec.Encoder(data, data + extra)
    wanted = tuple(range(data, data + extra))
    made = [bytearray() for _ in wanted]
    digests = [hashlib.sha256() for _ in range(data)]
    for start, width in _stripes(shard, data):
        blocks = tuple(_column(read, size, shard, i, start, width) for i in range(data))
        for digest, block in zip(digests, blocks, strict=True):
            digest.update(block)
        for whole, part in zip(made, encoder.encode(blocks, wanted), strict=True):
            whole += part
    cut = len(sum_of(b""))
    sums = [digest.digest()[:cut] for digest in digests] + [sum_of(part) for part in made]
    temp = disk.temp()
    try:
        temp.write(encode_parity_head(Parity(pack, size, shard, tuple(sums))))
        for part in made:
            temp.write(part)
    except BaseException:
        temp.discard()
        raise
    return temp


def _stripes(shard: int, data: int) -> list[tuple[int, int]]:
    """Where in each shard to begin, and how much of it to take, one step after the other."""
    width = max(1, min(shard, STRIPE_BYTES // data))
    return [(start, min(width, shard - start)) for start in range(0, shard, width)]


def _column(read: Read, size: int, shard: int, index: int, start: int, width: int) -> bytes:
    """`width` bytes of a data shard; zeros where the pack has ended."""
    at = index * shard + start
    there = max(0, min(width, size - at))
    found = read(at, there) if there else b""
    return found.ljust(width, b"\0")


class ParityFile:
    """The parity file of one pack, open for reading; a context manager."""

    def __init__(self, root: Path, pack: bytes) -> None:
        """NotFoundError when there is none, IntegrityError when its head is damaged."""
        self._fd = open_for_reading(root / parity_key(pack))
        try:
            start = read_at(self._fd, PARITY_HEAD.size, 0)
            self.head = decode_parity_head(read_at(self._fd, head_bytes_of(start), 0))
            if self.head.pack != pack:
                raise IntegrityError("it is the parity of another pack")
            if os.fstat(self._fd).st_size != self.head.file_bytes:
                raise IntegrityError("the parity file is not as long as its head says")
        except IntegrityError as error:
            os.close(self._fd)
            raise IntegrityError(f"parity of pack {pack.hex()}: {error}") from None
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> ParityFile:
        return self

    def __exit__(self, *_exc: object) -> None:
        os.close(self._fd)

    def _offset(self, index: int) -> int:
        return self.head.head_bytes + index * self.head.shard

    def sound_extra(self) -> list[int]:
        """The parity shards that are as they were written, numbered from 0. Reads all of them."""
        head = self.head
        return [i for i in range(head.extra) if self._digest(i) == head.sums[head.data + i]]

    def _digest(self, index: int) -> bytes:
        return sum_of(read_at(self._fd, self.head.shard, self._offset(index)))

    def verify(self) -> None:
        """Raise IntegrityError unless all shards are as they were written."""
        damaged = self.head.extra - len(self.sound_extra())
        if damaged:
            raise IntegrityError(
                f"parity of pack {self.head.pack.hex()}: {damaged} of its "
                f"{self.head.extra} shards are altered"
            )

    def mend(self, disk: Disk, read: Read) -> TempFile | None:
        """The whole pack in a temporary file, made of what `read` gives and the parity.

        None when more is damaged than the parity can mend. Blocks.
        """
        head = self.head
        bad = [i for i in range(head.data) if not self._is_sound(read, i)]
        extra = self.sound_extra()
        if len(bad) > len(extra):
            return None
        mended = self._decode(read, bad, extra[: len(bad)]) if bad else {}
        temp, digest = disk.temp(), hashlib.sha256()
        try:
            for i in range(head.data):
                size = min(head.shard, head.size - i * head.shard)
                for start, width in _stripes(size, 1):
                    part = (
                        bytes(mended[i][start : start + width])
                        if i in mended
                        else read(i * head.shard + start, width)
                    )
                    digest.update(part)
                    temp.write(part)
        except BaseException:
            temp.discard()
            raise
        if digest.digest() != head.pack:
            temp.discard()
            return None
        return temp

    def _is_sound(self, read: Read, index: int) -> bool:
        head, digest = self.head, hashlib.sha256()
        for start, width in _stripes(head.shard, 1):
            digest.update(_column(read, head.size, head.shard, index, start, width))
        return digest.digest().startswith(head.sums[index])

    def _decode(self, read: Read, bad: Sequence[int], extra: Sequence[int]) -> dict[int, bytearray]:
        """The bytes of the bad data shards."""
        import zfec

        head, missing = self.head, set(bad)
        decoder = zfec.Decoder(head.data, head.data + head.extra)
        stand_ins = dict(zip(bad, extra, strict=True))
        made = {i: bytearray() for i in bad}
        # zfec wants each data shard at its own place, and a parity shard where one is missing.
        numbers = tuple(head.data + stand_ins[i] if i in missing else i for i in range(head.data))
        for start, width in _stripes(head.shard, head.data):
            blocks = tuple(
                read_at(self._fd, width, self._offset(stand_ins[i]) + start)
                if i in missing
                else _column(read, head.size, head.shard, i, start, width)
                for i in range(head.data)
            )
            found = decoder.decode(blocks, numbers)
            for i in bad:
                made[i] += found[i]
        return made


def reader_of(fd: int) -> Read:
    """Reads a file that may end too early; a disk that cannot read a place gives nothing there."""

    def read(offset: int, size: int) -> bytes:
        parts: list[bytes] = []
        while size > 0:
            try:
                part = os.pread(fd, size, offset)
            except OSError:
                break
            if not part:
                break
            parts.append(part)
            offset, size = offset + len(part), size - len(part)
        return b"".join(parts)

    return read


def add_parity(disk: Disk, root: Path, pack: bytes, percent: int, *, anew: bool = False) -> int:
    """Give a sound pack its parity, durably, in the place of a damaged one with `anew`; its size."""
    fd = open_for_reading(root / pack_key(pack))
    try:
        with translated("reading a pack"):
            size = os.fstat(fd).st_size
        temp = write_parity(disk, reader_of(fd), size, pack, percent)
    finally:
        os.close(fd)
    target = root / parity_key(pack)
    try:
        disk.make_directory(target.parent)
    except BaseException:
        temp.discard()
        raise
    made = temp.size
    if anew:
        temp.supersede(target)
    else:
        temp.publish(target)
    return made


def remove_parity(disk: Disk, root: Path, pack: bytes) -> None:
    """Take away the parity of a pack, if it has any: before the pack itself goes."""
    disk.unlink(root / parity_key(pack))
