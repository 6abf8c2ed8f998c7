"""The mirror with content, and what it still has to do when that is forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dtafs.core.format import PackKind, pack_key
from dtafs.errors import NotFoundError
from dtafs.store.lake import Lake
from dtafs.store.tiers.mirror import is_behind, mirror, read_mirrored
from tests.support.mirrors import expected, fill, objects


@pytest.fixture
def lake(lake_path: Path, warm: Path) -> Iterator[Lake]:
    with Lake.open(lake_path) as opened:
        yield opened


def test_with_content(lake: Lake, tmp_path: Path, warm: Path) -> None:
    path = lake.path / "config.toml"
    path.write_text(path.read_text() + "mirror_content = true\n")
    lake.tiers.renew({"warm": _settings(lake)}, lake.disk)
    fill(lake, tmp_path / "tree", 1)
    mirror(lake)
    content = {pack_key(p) for p, row in lake.index.packs() if row.kind == PackKind.CONTENT}
    assert objects(warm) == expected(lake) | content
    assert all(lake.placed.where(p).names == ("hot", "warm") for p in _content(lake))


def test_content_that_was_there_when_it_was_asked_for(
    lake: Lake, tmp_path: Path, warm: Path
) -> None:
    """And content that a crash kept from being copied, when what was still due is forgotten with it."""
    fill(lake, tmp_path / "tree", 1)
    mirror(lake)
    path = lake.path / "config.toml"
    path.write_text(path.read_text() + "mirror_content = true\n")
    lake.tiers.renew({"warm": _settings(lake)}, lake.disk)
    assert is_behind(lake)
    mirror(lake)
    content = {pack_key(pack) for pack in _content(lake)}
    assert objects(warm) == expected(lake) | content and not is_behind(lake)


def test_what_was_left_out_is_not_forgotten(lake: Lake, tmp_path: Path, warm: Path) -> None:
    """Neither when the next pass fails, nor with the file that says so."""
    fill(lake, tmp_path / "tree", 1)
    pack = next(p for p, row in lake.index.packs() if row.kind == PackKind.METADATA)
    (lake.path / pack_key(pack)).rename(tmp_path / "kept")
    mirror(lake)
    warm.rename(warm.with_name("unmounted"))
    with pytest.raises(NotFoundError):
        mirror(lake)
    assert list(read_mirrored(lake).left_out) == [pack.hex()]
    warm.with_name("unmounted").rename(warm)
    (tmp_path / "kept").rename(lake.path / pack_key(pack))
    (lake.path / "upkeep" / "mirror.json").unlink()
    mirror(lake)
    assert objects(warm) == expected(lake)


def _settings(lake: Lake) -> Any:
    from dtafs.store.config import load_config

    return load_config(lake.path / "config.toml").tiers["warm"]


def _content(lake: Lake) -> list[bytes]:
    return [pack for pack, row in lake.index.packs() if row.kind == PackKind.CONTENT]
