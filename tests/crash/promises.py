"""What must hold wherever a scenario was interrupted."""

from __future__ import annotations

from pathlib import Path

from dtafs.errors import NotFoundError
from dtafs.store.check import check
from dtafs.store.lake import Lake
from dtafs.store.parity_upkeep import parity_files
from dtafs.store.reindex import dump, reindex
from tests.crash.scenarios import DATASET, ONE, PAGE, PATCHES, TWO, Scenario
from tests.crash.simulated_disk import Image
from tests.support.small_lakes import commit, read_version, tree_of_seed


def verify(scenario: Scenario, image: Image, path: Path) -> None:
    """Reopen what a crash has left, and hold it to every promise."""
    image.write(path)
    if scenario.recover is not None:
        scenario.recover(path, image.reached)
    try:
        lake = Lake.open(path)
    except NotFoundError:
        assert "created" not in image.reached and scenario.name == "create", "the lake is gone"
        lake = Lake.create(path)  # a lake that was begun can be made after all
    with lake:
        assert_no_errors(lake)
        if lake.parity:
            assert parity_files(path).keys() >= {pack for pack, _row in lake.index.packs()}
        count = _verify_versions(scenario, image, lake)
        if scenario.finish is not None:
            scenario.finish(lake, image.reached)
            assert_no_errors(lake)
            _verify_versions(scenario, image, lake)
        if "dataset" in image.reached or scenario.name != "create":
            _verify_staging(scenario, image, lake, count)
        _verify_index(lake)


def assert_no_errors(lake: Lake) -> None:
    """The checker finds nothing but room that could be freed."""
    errors = [f for f in check(lake, read_data=True) if f.severity == "error"]
    assert not errors, "\n".join(map(str, errors))


def _verify_versions(scenario: Scenario, image: Image, lake: Lake) -> int:
    """Each version is wholly there or wholly absent; how many there are."""
    if not lake.index.dataset(DATASET):
        assert scenario.name == "create" and "dataset" not in image.reached
        return 0
    versions = lake.versions(DATASET)
    for version in versions:
        if not version.disposed:
            assert read_version(lake, version) == scenario.trees[version.number], version.name
    promised = [int(label[1:]) for label in image.reached if label.startswith("v")]
    assert len(versions) >= max([scenario.before, *promised])
    if "tagged" in image.reached:
        assert versions[1].tags == ("final",)
    if "recorded" in image.reached:
        newest = lake.dataset(DATASET).sequence
        assert lake.log.read(DATASET, newest).entry.kind == "exported"
    return len(versions)


def _verify_staging(scenario: Scenario, image: Image, lake: Lake, count: int) -> None:
    """What was staged is still there, or is in the version that was made of it."""
    staged = scenario.staged
    for label in image.reached:
        if label.startswith("staged"):
            staged = tree_of_seed(int(label.split()[1]))
    if count > scenario.before and (staged is not None or "v2" in image.reached):
        assert lake.staging(DATASET).is_clean(), "staging was not moved onto the version"
    row = commit(lake, DATASET, "after the crash")
    found = read_version(lake, row)
    if staged is not None:
        assert found == staged
    for name in (b"new", b"big"):
        if f"synced {name.decode()}" in image.reached:
            assert found.get(name) == scenario.trees[2][name], "what fsync promised is gone"
    if scenario.name == "patch and sync another":
        assert found[b"big"].content in _allowed_patches(image.reached), "bytes that nobody wrote"
    if scenario.name == "discard":
        assert found in ([ONE] if "discarded" in image.reached else [ONE, TWO])
    assert_no_errors(lake)


def _allowed_patches(reached: tuple[str, ...]) -> list[bytes]:
    """What the patched file may be: each page old or new, new where that was promised."""
    allowed = [ONE[b"big"].content]
    for at, page in PATCHES.items():
        patched = [big[:at] + page + big[at + PAGE :] for big in allowed]
        synced = page.startswith(b"synced") and "patched" in reached
        allowed = patched if synced else allowed + patched
    return allowed


def _verify_index(lake: Lake) -> None:
    before = list(dump(lake.index.database))
    reindex(lake)
    assert list(dump(lake.index.database)) == before
