"""Quarantine: where what is damaged and cannot be mended goes, instead of being deleted.

    quarantine/packs/<64 hex>          a damaged pack, as it was found; `.2`, … if there was one before
    quarantine/parity/<64 hex>         its parity
    quarantine/<64 hex>.json           what of which versions was in it and cannot be read any more

Nothing refers to what lies here. A repair looks here too for chunks that are missing elsewhere, so
that what is saved from a damaged pack now may be completed by what is found later. Deleting it is up
to the lake's owner.
"""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import Any

from dtafs.core.format import pack_key
from dtafs.core.parity import parity_key
from dtafs.store.durable import Disk

FOLDER = "quarantine"


def quarantine_pack(disk: Disk, root: Path, pack: bytes, *, parity_too: bool = True) -> str:
    """Move a pack, with its parity, out of the lake's way, durably; its new key.

    The parity goes first, so that none is ever left without its pack. It stays where the right pack
    is just about to be put there.
    """
    parity = root / parity_key(pack)
    if parity_too and parity.exists():
        disk.move(parity, _free(root / FOLDER / "parity", pack))
    target = _free(root / FOLDER / "packs", pack)
    disk.move(root / pack_key(pack), target)
    return str(target.relative_to(root))


def _free(folder: Path, pack: bytes) -> Path:
    names = (folder / f"{pack.hex()}{f'.{n}' if n > 1 else ''}" for n in count(1))
    return next(name for name in names if not name.exists())


def quarantined_packs(root: Path) -> list[Path]:
    """The damaged packs that lie here, sorted."""
    folder = root / FOLDER / "packs"
    return sorted(folder.iterdir()) if folder.is_dir() else []


def quarantined_parity(root: Path) -> list[Path]:
    """The parity of such packs, sorted."""
    folder = root / FOLDER / "parity"
    return sorted(folder.iterdir()) if folder.is_dir() else []


def reports(root: Path) -> list[Path]:
    """What was written down about losses, sorted."""
    return sorted((root / FOLDER).glob("*.json"))


def write_report(disk: Disk, root: Path, name: str, facts: dict[str, Any]) -> str:
    """Write down, durably, what was lost with an object; the key of the report."""
    disk.make_directory(root / FOLDER)
    path = root / FOLDER / f"{name}.json"
    data = json.dumps(facts, indent=2)  # ASCII, so that a name of any bytes can be written
    disk.replace(path, data.encode() + b"\n")
    return str(path.relative_to(root))
