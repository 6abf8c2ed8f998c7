"""Tables of the index in memory: what rows follow from log entries, without a database."""

from __future__ import annotations


class RowsInMemory:
    """The rows of `dtafs.store.index_records.Rows`, as far as retention changes them."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[bytes, bytes]] = {}

    def get(self, table: str, key: bytes) -> bytes | None:
        """A row, or None."""
        return self.tables.get(table, {}).get(key)

    def put(self, table: str, key: bytes, value: bytes) -> None:
        """Set a row."""
        self.tables.setdefault(table, {})[key] = value

    def delete(self, table: str, key: bytes) -> bool:
        """Take a row away; whether it was there."""
        return self.tables.get(table, {}).pop(key, None) is not None
