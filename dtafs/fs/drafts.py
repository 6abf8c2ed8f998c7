"""Message and tags for the next commit of each dataset, as `setfattr` on `staging` left them.

They live in the daemon's memory, not in staging, and are gone once a commit used them.
"""

from __future__ import annotations

import errno

from msgspec import Struct

from dtafs.core.names import check_tag
from dtafs.errors import UsageError
from dtafs.fs.area import refuse
from dtafs.fs.xattrs import MESSAGE, TAGS


class Draft(Struct, frozen=True):
    """What the next commit of one dataset says."""

    message: bytes | None = None
    tags: bytes | None = None

    def text(self) -> str | None:
        """The message; UsageError for one that is no text."""
        try:
            return None if self.message is None else self.message.decode()
        except UnicodeDecodeError:
            raise UsageError("the message is not valid UTF-8") from None

    def tag_list(self) -> tuple[str, ...]:
        """The tags, checked; UsageError for one that cannot be a tag."""
        try:
            words = (self.tags or b"").decode()
        except UnicodeDecodeError:
            raise UsageError("the tags are not valid UTF-8") from None
        return tuple(check_tag(word.strip()) for word in words.split(",") if word.strip())


class Drafts:
    """The drafts of all datasets."""

    def __init__(self) -> None:
        self._drafts: dict[str, Draft] = {}

    def of(self, dataset: str) -> Draft:
        """The draft of a dataset, empty when nothing was set."""
        return self._drafts.setdefault(dataset, Draft())

    def clear(self, dataset: str) -> None:
        """A commit used it, or staging was discarded."""
        self._drafts.pop(dataset, None)

    def names(self, dataset: str) -> list[bytes]:
        """The attributes that are set."""
        draft = self.of(dataset)
        found = [(MESSAGE, draft.message), (TAGS, draft.tags)]
        return [name for name, value in found if value is not None]

    def get(self, dataset: str, name: bytes) -> bytes:
        """The value of an attribute; ENODATA when it is not set."""
        draft = self.of(dataset)
        value = {MESSAGE: draft.message, TAGS: draft.tags}.get(name)
        if value is None:
            refuse(errno.ENODATA)
        return value

    def set(self, dataset: str, name: bytes, value: bytes | None) -> bool:
        """Set or (None) remove an attribute; False when the name means nothing here.

        UsageError, and no change, for a value that a commit would refuse.
        """
        old = self.of(dataset)
        if name == MESSAGE:
            new = Draft(value, old.tags)
        elif name == TAGS:
            new = Draft(old.message, value)
        else:
            return False
        new.text()
        new.tag_list()
        self._drafts[dataset] = new
        return True
