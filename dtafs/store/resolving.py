"""Which version a spec such as `DATASET:v3`, `DATASET:raw` or `DATASET@TIME` means."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

from dtafs.core.names import LATEST, VersionSpec, format_time, suggest, version_name
from dtafs.errors import DisposedError, IntegrityError, NotFoundError
from dtafs.store.index import DatasetRow, Index, VersionRow
from dtafs.store.objects import disposed_error


def resolve(index: Index, dataset: DatasetRow, spec: VersionSpec) -> VersionRow:
    """The version of a dataset that a spec names, the newest where it names only the dataset. Without
    a number or a time, of those that were not disposed of: DisposedError when there is none.

    NotFoundError says what does exist.
    """
    if spec.at_ns is not None:
        return _version_at(index, dataset, spec.at_ns)
    number = spec.version
    if spec.tag is not None and spec.tag != LATEST:
        carriers = index.tagged(dataset.name, spec.tag)
        if not carriers:
            near = suggest(spec.tag, index.tags(dataset.name))
            raise NotFoundError(
                f"no version of {dataset.name!r} carries the tag {spec.tag!r}{near}"
            )
        number = _newest_kept(index, dataset, carriers[::-1], f"that carries the tag {spec.tag!r} ")
    elif number is None and dataset.newest:
        number = _newest_kept(index, dataset, range(dataset.newest, 0, -1))
    row = index.version(dataset.name, number) if number else None
    if row is None:
        if number is None or not dataset.newest:
            raise NotFoundError(f"{dataset.name!r} has no version yet: commit one first")
        raise NotFoundError(
            f"{dataset.name!r} has no version {version_name(number)}; "
            f"the newest is {version_name(dataset.newest)}"
        )
    return row


def _newest_kept(index: Index, dataset: DatasetRow, numbers: Iterable[int], which: str = "") -> int:
    """The first of some versions, given newest first, that was not disposed of."""
    for number in numbers:
        row = index.version(dataset.name, number)
        if row is None or not row.disposed:  # one that is missing is said by whoever looks it up
            return number
    raise DisposedError(f"every version of {dataset.name!r} {which}was disposed of")


def _version_at(index: Index, dataset: DatasetRow, at_ns: int) -> VersionRow:
    low, high, found = 1, dataset.newest, None
    while low <= high:
        middle = (low + high) // 2
        row = index.version(dataset.name, middle)
        if row is None:
            raise IntegrityError(
                f"version {middle} of {dataset.name!r} is missing from the index; run dtafsctl reindex"
            )
        if row.time_ns <= at_ns:
            low, found = middle + 1, row
        else:
            high = middle - 1
    if found is None:
        raise NotFoundError(f"{dataset.name!r} had no version at {format_time(at_ns)}")
    return found


@contextlib.contextmanager
def while_kept(version: VersionRow, index: Callable[[], Index]) -> Iterator[None]:
    """Read a version in this block. Where its bytes are not found since it was disposed of meanwhile,
    DisposedError says so instead of IntegrityError; `index` gives the index as it is then."""
    try:
        yield
    except IntegrityError as error:
        now = index().version(version.dataset, version.number)
        if now is not None and now.disposed:
            raise disposed_error(now) from error
        raise
