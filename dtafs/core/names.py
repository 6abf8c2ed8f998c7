"""How datasets, versions, tags and times are written, and what to suggest for a wrong one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from datetime import UTC, datetime

from msgspec import Struct

from dtafs.errors import UsageError

DATASET_NAME_MAX_BYTES = 200
"""Room for a suffix within the 255 bytes of a file name on the host."""

TAG_MAX_BYTES = 100
LATEST = "latest"
STAGING = "staging"
LAKE_LOG = ".lake"
"""The lake's own log, of what concerns several datasets. No dataset can have this name."""

RESERVED_DATASETS = frozenset({".dtafs", LAKE_LOG, "lost+found"})
_VERSION = re.compile(r"v([1-9][0-9]{0,8})")
_VERSION_LIKE = re.compile(r"[vV][0-9]+")
_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?(Z|[+-]\d\d:?\d\d)?)?",
    re.ASCII,
)


def _check_word(what: str, word: str, limit: int, forbidden: str) -> None:
    if not word:
        raise UsageError(f"a {what} cannot be empty")
    try:
        size = len(word.encode())
    except UnicodeEncodeError:
        raise UsageError(f"the {what} {word!r} is not valid UTF-8") from None
    if size > limit:
        raise UsageError(f"a {what} has at most {limit} bytes; {word[:20] + '…'!r} has {size}")
    if word[0] in ".-" or word != word.strip():
        raise UsageError(
            f"the {what} {word!r} cannot begin with a dot, a dash or a space, nor end with a space"
        )
    for char in word:
        if char in forbidden or unicodedata.category(char)[0] == "C":
            raise UsageError(f"the {what} {word!r} cannot contain {char!r}")
    if unicodedata.normalize("NFC", word) != word:
        raise UsageError(
            f"the {what} {word!r} must be in Unicode form NFC, so that it has one spelling"
        )


def check_dataset_name(name: str) -> str:
    """Return `name` when it can be a dataset's; UsageError says which rule it breaks."""
    _check_word("dataset name", name, DATASET_NAME_MAX_BYTES, "/:@")
    if name in RESERVED_DATASETS:
        raise UsageError(f"{name!r} is reserved and cannot be a dataset")
    return name


def check_tag(tag: str) -> str:
    """Return `tag` when it can be one; UsageError says which rule it breaks."""
    _check_word("tag", tag, TAG_MAX_BYTES, "/:@,")
    if _VERSION_LIKE.fullmatch(tag):
        raise UsageError(f"the tag {tag!r} looks like a version; choose another")
    if tag in (LATEST, STAGING):
        raise UsageError(f"{tag!r} has a meaning of its own and cannot be a tag")
    return tag


def check_label(what: str, word: str) -> str:
    """Return `word` when it can name a `what`, such as a rule; UsageError says what it breaks."""
    _check_word(what, word, TAG_MAX_BYTES, "/:@,")
    return word


def version_name(number: int) -> str:
    """`v3` for 3."""
    return f"v{number}"


def parse_version_name(word: str) -> int | None:
    """3 for `v3`; None when the word is not a version (`v0`, `v03` and `V3` are not)."""
    match = _VERSION.fullmatch(word)
    return int(match[1]) if match else None


class VersionSpec(Struct, frozen=True):
    """What `DATASET`, `DATASET:v3`, `DATASET:tag` or `DATASET@time` says.

    At most one of the fields after the first is set.
    """

    dataset: str
    version: int | None = None
    tag: str | None = None
    at_ns: int | None = None

    def __str__(self) -> str:
        if self.version is not None:
            return f"{self.dataset}:v{self.version}"
        if self.tag is not None:
            return f"{self.dataset}:{self.tag}"
        return (
            f"{self.dataset}@{format_time(self.at_ns)}" if self.at_ns is not None else self.dataset
        )


def parse_spec(text: str) -> VersionSpec:
    """Parse what names a dataset or one of its versions; UsageError when it cannot be one."""
    dataset, mark, rest = text, "", ""
    for char in (":", "@"):
        head, found, tail = text.partition(char)
        if found and len(head) < len(dataset):
            dataset, mark, rest = head, char, tail
    check_dataset_name(dataset)
    if not mark:
        return VersionSpec(dataset)
    if mark == "@":
        return VersionSpec(dataset, at_ns=parse_time(rest))
    number = parse_version_name(rest)
    if number is not None:
        return VersionSpec(dataset, version=number)
    if _VERSION_LIKE.fullmatch(rest):
        raise UsageError(f"{rest!r} is not a version: versions are written v1, v2, …")
    return VersionSpec(dataset, tag=LATEST if rest == LATEST else check_tag(rest))


def parse_time(text: str) -> int:
    """Nanoseconds since the epoch of an ISO 8601 time; UTC unless it carries an offset."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise UsageError(f"{text!r} is not a time: write it as 2024-07-04T12:00Z")
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    offset = "+00:00" if zone in (None, "Z") else zone
    try:
        moment = datetime.fromisoformat(
            f"{year}-{month}-{day}T{hour or '00'}:{minute or '00'}:{second or '00'}{offset}"
        )
        whole = int(moment.astimezone(UTC).timestamp())
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{text!r} is not a time: {error}") from None
    return whole * 1_000_000_000 + int((fraction or "").ljust(9, "0"))


def format_time(time_ns: int) -> str:
    """UTC with nine digits of the second, `2024-07-04T12:00:00.000000000Z`; sorts as times do."""
    whole, rest = divmod(time_ns, 1_000_000_000)
    moment = datetime.fromtimestamp(whole, UTC).replace(tzinfo=None)
    return f"{moment.isoformat(timespec='seconds')}.{rest:09d}Z"  # %Y does not pad early years


def nearest(word: str, candidates: Iterable[str], most: int = 3) -> list[str]:
    """The candidates that a person most probably meant, best first."""
    pool = list(candidates)
    folded = {c.casefold(): c for c in pool}
    if word.casefold() in folded:
        return [folded[word.casefold()]]
    import difflib  # only a mistake needs it

    return difflib.get_close_matches(word, pool, n=most, cutoff=0.4)


def suggest(word: str, candidates: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or nothing when nothing is near."""
    near = nearest(word, candidates)
    return f"; did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
