"""Sealed versions in the namespace: found by number alone, and refusing every change."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import stat

import pytest

from dtafs.core.values import Kind
from dtafs.errors import IntegrityError
from dtafs.fs.area import Changes
from dtafs.fs.attributes import Attributes
from dtafs.fs.inodes import Region, region_of, split_sealed
from dtafs.store.retention_changes import place_hold, release_hold, set_rules
from tests.fs.conftest import CALLER, World
from tests.support.records import HELD, SEVEN
from tests.support.small_lakes import ACTOR


async def tree(world: World) -> None:
    """D:v1 with two levels, a big file, a symlink, an empty directory and a hard link."""
    await world.mkdir("D")
    await world.mkdir("D/staging/a")
    await world.mkdir("D/staging/a/b")
    await world.mkdir("D/staging/empty")
    await world.write("D/staging/a/b/deep", b"deep down")
    await world.write("D/staging/a/one", b"1")
    await world.write("D/staging/big", random.Random(1).randbytes(3_000_000))
    await world.write("D/staging/nothing", b"")
    staging = (await world.at("D/staging")).ino
    linked = (await world.at("D/staging/a/one")).ino
    await world.namespace.symlink(staging, b"link", b"a/one", CALLER)
    await world.namespace.link(linked, staging, b"twin")
    await world.commit("D")


async def test_contents_and_kinds(world: World) -> None:
    await tree(world)
    assert await world.names("D/v1") == [b"a", b"big", b"empty", b"link", b"nothing", b"twin"]
    assert await world.read("D/v1/a/b/deep") == b"deep down"
    assert await world.read("D/v1/nothing") == b""
    assert await world.read("D/v1/big", 100_001) == random.Random(1).randbytes(3_000_000)
    link = await world.at("D/v1/link")
    assert link.kind == Kind.SYMLINK and link.size == 5
    assert await world.namespace.area(link.ino).readlink(link.ino) == b"a/one"
    assert await world.names("D/v1/empty") == []


async def test_every_number_is_found_again_without_a_table(world: World) -> None:
    await tree(world)
    seen: dict[int, tuple[str, int, int]] = {}

    async def visit(path: str) -> None:
        for name, found in await world.entries(path):
            below = f"{path}/{os.fsdecode(name)}"
            assert await world.at(below) == found
            seen[found.ino] = (below, found.size, found.st_mode)
            if found.kind == Kind.DIRECTORY:
                await visit(below)

    await visit("D/v1")
    area = world.namespace.area((await world.at("D/v1")).ino)
    area._known.clear()  # type: ignore[attr-defined]
    area._versions.clear()  # type: ignore[attr-defined]
    world.lake.objects.clear()
    for ino, (_path, size, mode) in seen.items():
        again = await world.namespace.area(ino).attributes(ino)
        assert (again.ino == ino or region_of(ino) is Region.GROUP, again.size) == (True, size)
        assert again.st_mode == mode


async def test_dots_name_the_directory_and_the_one_above(world: World) -> None:
    await tree(world)
    for path, above in (("D/v1", "D"), ("D/v1/a", "D/v1"), ("D/v1/a/b", "D/v1/a")):
        ino = (await world.at(path)).ino
        dots: dict[bytes, int] = {}

        def emit(
            name: bytes, found: Attributes, _after: int, dots: dict[bytes, int] = dots
        ) -> bool:
            dots[name] = found.ino
            return True

        handle = await world.namespace.area(ino).open_directory(ino)
        await handle.read(0, emit)
        assert (dots[b"."], dots[b".."]) == (ino, (await world.at(above)).ino)


@pytest.mark.parametrize("batch", [1, 2, 7])
async def test_listing_in_small_pieces(world: World, batch: int) -> None:
    await world.mkdir("D")
    names = [f"file{i:04d}" for i in range(200)]
    for name in names:
        await world.write(f"D/staging/{name}", name.encode())
    await world.commit("D")
    world.lake.objects.clear()
    assert await world.names("D/v1", batch) == [name.encode() for name in names]


async def test_names_of_one_file_share_a_number_while_it_is_known(world: World) -> None:
    await tree(world)
    first, second = await world.at("D/v1/a/one"), await world.at("D/v1/twin")
    assert first.ino == second.ino and first.nlink == 2
    assert region_of(first.ino) is Region.GROUP
    assert await world.read("D/v1/twin") == b"1"
    area = world.namespace.area(first.ino)
    area.release(first.ino, 1_000)
    with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
        await area.attributes(first.ino)
    assert (await world.at("D/v1/twin")).ino == first.ino


async def test_what_is_missing_will_always_be(world: World) -> None:
    await tree(world)
    top = (await world.at("D/v1")).ino
    assert await world.namespace.lookup(top, b"no such name") is None


async def test_numbers_that_were_never_given_are_stale(world: World) -> None:
    await tree(world)
    top = (await world.at("D/v1")).ino
    assert split_sealed(top) == (1, 0)
    with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
        await world.namespace.area(top).attributes(top + 1_000)


async def test_every_change_is_refused(world: World) -> None:
    await tree(world)
    top, file = (await world.at("D/v1")).ino, (await world.at("D/v1/a/b/deep")).ino
    area = world.namespace.area(top)
    regular = stat.S_IFREG | 0o644
    refused = [
        lambda: area.create(top, b"new", 0o644, os.O_RDWR, CALLER),
        lambda: area.make(top, b"new", regular, CALLER),
        lambda: area.symlink(top, b"new", b"x", CALLER),
        lambda: area.link(file, top, b"new"),
        lambda: area.unlink(top, b"big", CALLER),
        lambda: area.rmdir(top, b"empty"),
        lambda: area.rename(top, b"big", top, b"bigger", 0, CALLER),
        lambda: area.set_xattr(file, b"user.x", b"1"),
        lambda: area.remove_xattr(file, b"user.x"),
        lambda: area.set_attributes(file, Changes(mode=0o600)),
        lambda: area.open(file, os.O_WRONLY, CALLER),
        lambda: area.open(file, os.O_RDONLY | os.O_TRUNC, CALLER),
    ]
    for change in refused:
        with pytest.raises(OSError) as caught:
            await change()
        assert caught.value.errno == errno.EROFS
    staging = (await world.at("D/staging")).ino
    for old, new in ((top, staging), (staging, top)):
        with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
            await world.namespace.rename(old, b"big", new, b"moved", 0, CALLER)


async def test_attributes_of_the_lake(world: World) -> None:
    await tree(world)
    row = world.lake.resolve("D:v1")
    ino = (await world.at("D/v1/a/b/deep")).ino
    area = world.namespace.area(ino)
    names = await area.list_xattrs(ino)
    assert {name.decode().rpartition(".")[2] for name in names} == {
        "sha256",
        "version",
        "manifest",
        "tier",
        "retain_until",
    }
    assert await area.get_xattr(ino, b"user.dtafs.retain_until") == b"for ever"
    with pytest.raises(OSError, match=os.strerror(errno.ENODATA)):
        await area.get_xattr(ino, b"user.dtafs.holds")
    assert await area.get_xattr(ino, b"user.dtafs.version") == b"D:v1"
    manifest = await area.get_xattr(ino, b"user.dtafs.manifest")
    assert manifest.decode() == row.manifest_sha256.hex()
    digest = hashlib.sha256(b"deep down").hexdigest()
    assert (await area.get_xattr(ino, b"user.dtafs.sha256")).decode() == digest
    with pytest.raises(OSError, match=os.strerror(errno.ENODATA)):
        await area.get_xattr(ino, b"user.dtafs.lineage")


async def test_attributes_follow_rules_and_holds(world: World) -> None:
    await tree(world)
    area = world.namespace.area((await world.at("D/v1/a/b/deep")).ino)
    ino, link = (await world.at("D/v1/a/b/deep")).ino, (await world.at("D/v1/link")).ino
    assert await area.get_xattr(ino, b"user.dtafs.retain_until") == b"for ever"
    set_rules(world.lake, ACTOR, {"seven": SEVEN})
    until = (await area.get_xattr(ino, b"user.dtafs.retain_until")).decode()
    assert until[:4].isdigit()
    place_hold(world.lake, ACTOR, HELD)
    assert b"user.dtafs.holds" in await area.list_xattrs(ino)
    assert await area.get_xattr(ino, b"user.dtafs.holds") == b"case"
    assert await area.get_xattr(ino, b"user.dtafs.retain_until") == b"for ever"
    assert await area.list_xattrs(link) == []
    release_hold(world.lake, ACTOR, "case", "settled", "ann")
    assert b"user.dtafs.holds" not in await area.list_xattrs(ino)
    assert (await area.get_xattr(ino, b"user.dtafs.retain_until")).decode() == until


async def test_sequential_reading_goes_ahead_and_any_order_is_right(world: World) -> None:
    await tree(world)
    data = random.Random(1).randbytes(3_000_000)
    opened = await world.open("D/v1/big")
    for size in (4_096, 65_536, 131_072):
        for offset in range(0, len(data), size):
            assert await opened.read(offset, size) == data[offset : offset + size]
    chaos = random.Random(7)
    for _ in range(100):
        offset, size = chaos.randrange(len(data) + 10), chaos.randrange(1, 300_000)
        assert await opened.read(offset, size) == data[offset : offset + size]
    await opened.release()
    pool = opened._pool  # type: ignore[attr-defined]
    assert pool.windows == 0, "a window outlived its file"


@pytest.mark.damages_lake
async def test_damage_is_an_error_and_never_wrong_bytes(world: World) -> None:
    await tree(world)
    for pack in sorted((world.lake.path / "packs").glob("*/*")):
        data = bytearray(pack.read_bytes())
        if len(data) > 2_000_000:
            data[1_000_000] ^= 1
            os.chmod(pack, 0o644)
            pack.write_bytes(data)
    world.lake.objects.clear()
    with pytest.raises(IntegrityError):
        await world.read("D/v1/big")
    assert await world.read("D/v1/a/b/deep") == b"deep down"
