"""What a lake has on disk besides once it has tiers, records, and a disposition behind it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec

from dtafs.core.format import PackKind, pack_key
from dtafs.core.placed import Stub
from dtafs.core.records import Scope
from dtafs.core.values import Kind
from dtafs.errors import DtafsError
from dtafs.store.catalog import Catalog
from dtafs.store.config import load_config
from dtafs.store.lake import Lake
from dtafs.store.placement.moves import copy_pack, move_pack, move_packs
from dtafs.store.placement.pins import Pin, change_pins
from dtafs.store.quarantine import write_report
from dtafs.store.retention_changes import place_hold, remove_rule, set_rules
from dtafs.store.session import Session
from dtafs.store.tiers.mirror import mirror, mirror_what_came
from tests.support.disposing import dispose_of, order_of
from tests.support.records import HELD, SEVEN
from tests.support.small_lakes import ACTOR, Item, commit, put_tree

TIERS = "tiers"
"""Where the directories of the tiers lie, in the lake's."""


def add_what_tiers_bring(lake: Lake, scratch: Path) -> None:
    """Give a lake a mirror and a second tier, with packs that are away, hot there as well, asked back, and
    doomed; rules, a hold, a disposed version, something in quarantine, and a catalog."""
    lake.create_dataset("gone", ACTOR)
    for number in (1, 2):
        item = Item(Kind.FILE, 0o644, bytes([number]) * 50_000)
        put_tree(lake, "gone", {b"file": item}, scratch)
        commit(lake, "gone")
    set_rules(lake, ACTOR, {"seven": SEVEN})
    order = order_of("gone", 1)
    assert not dispose_of(lake, order).left
    remove_rule(lake, ACTOR, order.rule, "nothing else is to go by it")
    place_hold(lake, ACTOR, msgspec.structs.replace(HELD, scope=Scope("a")))
    (lake.path / TIERS).mkdir()
    for name in ("warm", "near"):
        place = lake.path / TIERS / name
        place.mkdir()
        shutil.copy(lake.path / "lake.json", place)
    text = (lake.path / "config.toml").read_text()
    for name in ("warm", "near"):
        text += f'\n[tiers.{name}]\nurl = "file://{lake.path / TIERS / name}"\n'
    (lake.path / "config.toml").write_text(text)
    lake.tiers.renew(load_config(lake.path / "config.toml").tiers, lake.disk)
    mirror(lake)
    first, second, *_ = (p for p, row in lake.index.packs() if row.kind == PackKind.CONTENT)
    move_pack(lake, first, "near")
    copy_pack(lake, second, "near")
    assert lake.recalls is not None
    lake.recalls.ask([first])
    gone = bytes(range(32))
    with lake.placed.lock:
        lake.placed.note_doomed(Stub(gone, 0, b"", {"near": 0}))
    aside = lake.path / "quarantine" / "packs" / gone.hex()
    lake.disk.make_directory(aside.parent)
    lake.disk.put_new(aside, (lake.path / pack_key(second)).read_bytes()[:-9])
    write_report(lake.disk, lake.path, gone.hex(), {"object": pack_key(gone), "affects": []})
    change_pins(lake.disk, lake.path, Pin("b"), "tester", lake.now_ns(), remove=False)
    Catalog(lake).snapshot()


def use_what_tiers_bring(lake: Lake) -> None:
    """Everything that reads or writes these files, whatever they hold now; any documented error will do."""
    session = Session(lake, ACTOR)
    packs = [p for p, row in lake.index.packs() if row.kind == PackKind.CONTENT]
    acts: list[Callable[[], object]] = [
        Catalog(lake).snapshot,
        session.stats,
        session.tier_list,
        session.tier_plan,
        session.tier_pin,
        lambda: session.tier_plan_read(["a:v1"]),
        lambda: mirror_what_came(lake),
        session.apply,
        lambda: dispose_of(lake, order_of("gone", 1)),
        lambda: move_packs(lake, packs[1:2], "near"),
        lambda: lake.recalls and lake.recalls.step(),
        lambda: session.collect(grace_s=0),
        lambda: session.repair([]),
    ]
    for act in acts:
        with contextlib.suppress(DtafsError):
            act()
