"""`.dtafs`: the catalog, the provenance texts, the status."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

import pytest

from tests.fs.conftest import World


async def versions(world: World, count: int) -> None:
    await world.mkdir("D")
    for number in range(1, count + 1):
        await world.write(f"D/staging/f{number}", b"%d" % number)
        await world.commit("D")


async def history(world: World, tmp_path: Path) -> list[str]:
    """The versions that the catalog tells of now."""
    copy = tmp_path / "copy.sqlite"
    copy.write_bytes(await world.read(".dtafs/catalog.sqlite"))
    connection = sqlite3.connect(copy)
    try:
        return [row[0] for row in connection.execute("SELECT ver FROM versions ORDER BY ver")]
    finally:
        connection.close()


async def test_what_is_there(world: World) -> None:
    await versions(world, 2)
    assert await world.names(".dtafs") == [b"catalog.sqlite", b"provenance", b"status"]
    assert await world.names(".dtafs/provenance") == [b"D"]
    assert await world.names(".dtafs/provenance/D") == [b"v1.txt", b"v2.txt"]
    for missing in (".dtafs/x", ".dtafs/provenance/E", ".dtafs/provenance/D/v3.txt"):
        with pytest.raises(FileNotFoundError):
            await world.at(missing)


async def test_the_catalog_is_current_and_an_open_one_stays(world: World, tmp_path: Path) -> None:
    await versions(world, 1)
    before = await world.at(".dtafs/catalog.sqlite")
    opened = await world.open(".dtafs/catalog.sqlite")
    old = await opened.read(0, before.size)
    assert await history(world, tmp_path) == ["v1"]
    await world.write("D/staging/y", b"2")
    await world.commit("D")
    after = await world.at(".dtafs/catalog.sqlite")
    assert after.ino != before.ino and after.name_timeout_s == 0
    assert await history(world, tmp_path) == ["v1", "v2"]
    assert await opened.read(0, before.size) == old
    await opened.release()
    assert (await world.at(".dtafs/catalog.sqlite")).ino == after.ino


async def test_provenance_has_its_size_and_never_changes(world: World) -> None:
    await versions(world, 1)
    found = await world.at(".dtafs/provenance/D/v1.txt")
    text = await world.read(".dtafs/provenance/D/v1.txt")
    assert len(text) == found.size
    assert text.startswith(b"PROVENANCE OF D:v1")
    await world.write("D/staging/y", b"2")
    await world.commit("D")
    assert await world.read(".dtafs/provenance/D/v1.txt") == text


async def test_the_status_is_made_for_each_open(world: World) -> None:
    await versions(world, 1)
    assert b"D  v1  as the newest version" in await world.read(".dtafs/status")
    await world.write("D/staging/y", b"2")
    assert b"D  v1  changed" in await world.read(".dtafs/status")
    opened = await world.open("D/staging/y", os.O_WRONLY)
    assert b"1 file open" in await world.read(".dtafs/status")
    await opened.release()


async def test_nothing_can_be_written(world: World) -> None:
    await versions(world, 1)
    for path in (".dtafs/status", ".dtafs/catalog.sqlite", ".dtafs/provenance/D/v1.txt"):
        with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
            await world.open(path, os.O_RDWR)
    with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
        await world.write(".dtafs/new", b"")
    with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
        await world.rename("D/staging/f1", ".dtafs/f1")


async def test_an_open_catalog_has_its_attributes_when_its_file_is_gone(world: World) -> None:
    await versions(world, 1)
    before = await world.at(".dtafs/catalog.sqlite")
    opened = await world.open(".dtafs/catalog.sqlite")
    for file in (world.lake.path / "cache" / "catalog").iterdir():
        file.unlink()
    after = await world.namespace.area(before.ino).attributes(before.ino)
    assert after == before and len(await opened.read(0, before.size)) == before.size
    await opened.release()
