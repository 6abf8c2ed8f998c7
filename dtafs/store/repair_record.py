"""Recording what a repair has saved: the same `collected` entries as a collection writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from dtafs.core.entries import Collection
from dtafs.core.format import PackKind, pack_key
from dtafs.core.values import Actor
from dtafs.errors import IntegrityError
from dtafs.store.collect_rewrite import Repacker
from dtafs.store.packs import Pack, read_footer
from dtafs.store.repair_sources import Found

if TYPE_CHECKING:
    from dtafs.store.lake import Lake

DAMAGED = "damaged"
SETTLE_S = 10.0
"""How long a repair waits for a `put` or commit that began before it, before it leaves the pack."""


class Record:
    """Makes what was saved a part of the lake."""

    def __init__(self, lake: Lake, actor: Actor) -> None:
        self._lake, self._actor = lake, actor

    def replaced(
        self,
        pack: bytes,
        dataset: str | None,
        owners: Sequence[str],
        added: Sequence[Pack],
        remove: bool,
    ) -> bool:
        """Let `added` take the place of a pack; False when a commit that is under way needs that.

        `dataset` is the one whose log names the pack, `owners` those of whose uncommitted work it
        is a part. Without `remove` it goes on being named.
        """
        lake = self._lake
        assert lake.pending is not None
        marks = lake.condemned
        if owners:
            marks.condemn({pack: DAMAGED})
            settled = pack in marks.settled([pack], SETTLE_S)
        with lake.append_lock, marks.lock:
            if owners and not (settled and pack in marks.packs):
                marks.spare([pack])
                return False
            if dataset is not None:
                self._log(dataset, pack if remove else None, added)
            for owner in lake.pending.owners(pack):
                for one in added:
                    lake.pending.add(owner, one)
                if remove:
                    lake.pending.drop_unreadable(owner, pack)
            marks.forget([pack])
        return True

    def found(self, chunks: Mapping[bytes, Found], dataset: str) -> list[Pack]:
        """Put chunks that no pack has into new ones, which the log of a dataset then names."""
        added: list[Pack] = []
        for kind in PackKind:
            out = Repacker(self._lake, kind)
            try:
                for chunk, have in chunks.items():
                    if have.kind == kind:
                        out.add_chunk(chunk, have.data)
                added += out.finish()
            finally:
                out.discard()
        with self._lake.append_lock:
            self._log(dataset, None, added)
        return added

    def _log(self, dataset: str, removed: bytes | None, added: Sequence[Pack]) -> None:
        lake = self._lake
        removed_bytes = 0
        if removed is not None and (lake.path / pack_key(removed)).exists():
            removed_bytes = (lake.path / pack_key(removed)).stat().st_size
        collection = Collection(
            removed={removed.hex(): DAMAGED} if removed is not None else {},
            added=tuple(sorted(one.id.hex() for one in added)),
            removed_bytes=removed_bytes,
            added_bytes=sum(one.size for one in added),
        )
        body: dict[str, Any] = msgspec.to_builtins(collection)
        lake.record(dataset, "collected", body, self._actor)


def rows_agree(lake: Lake, pack: bytes) -> bool:
    """Whether the index has all rows of a pack that the log names; not where it was made, or an
    entry applied, while the pack was missing."""
    if lake.index.pack(pack) is None:
        return False
    try:
        places = read_footer(lake.path, pack).places()
    except IntegrityError:
        return False
    return all(
        lake.index.place(chunk) == place or place in lake.index.copies(chunk)
        for chunk, place in places
    )
