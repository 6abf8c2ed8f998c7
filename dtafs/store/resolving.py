"""Which version a spec such as `DATASET:v3`, `DATASET:raw` or `DATASET@TIME` means."""

from __future__ import annotations

from dtafs.core.names import LATEST, VersionSpec, format_time, suggest, version_name
from dtafs.errors import IntegrityError, NotFoundError
from dtafs.store.index import DatasetRow, Index, VersionRow


def resolve(index: Index, dataset: DatasetRow, spec: VersionSpec) -> VersionRow:
    """The version of a dataset that a spec names, the newest where it names only the dataset.

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
        number = carriers[-1]
    elif number is None:
        number = dataset.newest
    row = index.version(dataset.name, number) if number else None
    if row is None:
        if not dataset.newest:
            raise NotFoundError(f"{dataset.name!r} has no version yet: commit one first")
        raise NotFoundError(
            f"{dataset.name!r} has no version {version_name(number)}; "
            f"the newest is {version_name(dataset.newest)}"
        )
    return row


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
