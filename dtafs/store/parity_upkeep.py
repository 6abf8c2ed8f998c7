"""The parity of all packs of a lake: what there is, and making what is missing or damaged."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from dtafs.core.format import pack_key
from dtafs.core.values import HASH_BYTES
from dtafs.errors import DtafsError, NotFoundError
from dtafs.store.parity import ParityFile, add_parity, remove_parity

if TYPE_CHECKING:
    from dtafs.store.lake import Lake

FOLDER = "parity"


def parity_files(root: Path) -> dict[bytes, int]:
    """The packs of which there is a parity file, with its size in bytes."""
    found = {}
    for path in sorted((root / FOLDER).glob("*/*")):
        try:
            pack = bytes.fromhex(path.name)
        except ValueError:
            continue
        if len(pack) == HASH_BYTES:
            found[pack] = path.stat().st_size
    return found


def renew_parity(
    lake: Lake,
    sound: Iterable[bytes],
    remove: bool,
    dry_run: bool,
    tell: Callable[[str, int, int], None],
) -> dict[str, int]:
    """Give each of the `sound` packs its parity; how many were made, removed, and their bytes.

    With `remove`, parity of packs that are not there any more goes. Packs must not come or go
    meanwhile, but for those that others write.
    """
    facts = {"written": 0, "removed": 0, "size_bytes": 0}
    packs = sorted(set(sound))
    for done, pack in enumerate(packs):
        tell("verify the parity", done, len(packs))
        try:
            with ParityFile(lake.path, pack) as parity:
                parity.verify()
            continue
        except NotFoundError:
            anew = False
        except DtafsError:
            anew = True
        facts["written"] += 1
        if not dry_run:
            facts["size_bytes"] += add_parity(lake.disk, lake.path, pack, lake.parity, anew=anew)
    for pack in parity_files(lake.path) if remove else ():
        if not (lake.path / pack_key(pack)).exists():
            facts["removed"] += 1
            if not dry_run:
                remove_parity(lake.disk, lake.path, pack)
    return facts
