"""The gate to lmdb: environments whose map grows by itself and whose values carry a checksum.

Threads and txns: a read txn is begun and ended inside one `with` block on one thread, and never
lives across an `await`; a write txn is one function run to its end on one thread (lmdb lets another
thread commit it, and then every later writer blocks for ever). Both are asserted.

A crash leaves the state of the last write that returned: commits are synced. LMDB has no checksum
of its own, so each value ends with the CRC-32 of table, key and value; a mismatch is IntegrityError.
LMDB ends the process, by a signal or an assertion, over a page that is not there or is another. So
the pages of a file are looked at before it is used (`dtafs.store.pages`). LMDB also need not write its
last pages; so after each write the file is made as long as its page count says, and one that is
shorter when it is opened is first tried out in a process of its own (`dtafs.store.probe`).
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import get_ident
from typing import Any, TypeVar
from zlib import crc32

import lmdb
import msgspec

from dtafs.errors import (
    BusyError,
    DtafsError,
    IntegrityError,
    NotFoundError,
    RefusedError,
    StorageError,
    StorageFullError,
)
from dtafs.store.pages import LOOKED_AT, PAGE_BYTES, examine, lengthen

T = TypeVar("T")

MAP_START_BYTES = 64 * 1024 * 1024
MAP_LIMIT_BYTES = 1 << 44
CLOSE_WAIT_S = 5.0
"""Longer than any read takes; a reader that never ends must not keep a lake from closing."""
OTHER_THREAD = "an LMDB txn was used on another thread than its own"
CRC_BYTES = 4
CRC_OF_ITSELF = 0x2144DF1C
"""The CRC-32 of any bytes that are followed by their CRC-32, its least byte first."""

EXAMINATIONS_MAX = 10


class Txn:
    """Tables of one txn. Valid only inside the block or function that was given it."""

    __slots__ = ("_tables", "_thread", "_txn")

    def __init__(self, txn: lmdb.Transaction, tables: dict[str, Any]) -> None:
        self._txn, self._tables = txn, tables
        self._thread = get_ident()

    def _table(self, table: str) -> Any:
        if get_ident() != self._thread:
            raise AssertionError(OTHER_THREAD)
        return self._tables[table]

    def get(self, table: str, key: bytes) -> bytes | None:
        """The value of a key, or None."""
        if get_ident() != self._thread:
            raise AssertionError(OTHER_THREAD)
        rows = self._tables[table]
        if rows is None:
            return None
        raw: Any = self._txn.get(key, db=rows)
        return None if raw is None else _open(table, key, raw)

    def put(self, table: str, key: bytes, value: bytes) -> None:
        """Set the value of a key."""
        self._txn.put(key, value + _crc(table, key, value), db=self._table(table))

    def delete(self, table: str, key: bytes) -> bool:
        """Remove a key; False when it was not there."""
        return bool(self._txn.delete(key, db=self._table(table)))

    def scan(
        self, table: str, prefix: bytes = b"", start: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values whose key begins with `prefix`, in order, from `start` on."""
        if self._table(table) is None:
            return
        cursor = self._txn.cursor(db=self._table(table))
        if reverse:
            after = _successor(prefix)
            found = cursor.last() if after is None else cursor.set_range(after)
            if after is not None:
                found = cursor.prev() if found else cursor.last()
            rows: Any = cursor.iterprev() if found else iter(())
        else:
            rows = cursor.iternext() if cursor.set_range(start or prefix) else iter(())
        for key, raw in rows:
            if not key.startswith(prefix):
                return
            yield key, _open(table, key, raw)

    def count(self, table: str) -> int:
        """How many keys a table holds."""
        rows = self._table(table)
        return 0 if rows is None else int(self._txn.stat(rows)["entries"])


@functools.cache
def _table_crc(table: str) -> int:
    return crc32(table.encode())


def _crc(table: str, key: bytes, value: bytes) -> bytes:
    return crc32(value, crc32(key, _table_crc(table))).to_bytes(CRC_BYTES, "little")


def _open(table: str, key: bytes, raw: bytes) -> bytes:
    if crc32(raw, crc32(key, _table_crc(table))) != CRC_OF_ITSELF:
        raise IntegrityError(f"a row of the LMDB table {table!r} is damaged (key {key.hex()})")
    return raw[:-CRC_BYTES]


def _successor(prefix: bytes) -> bytes | None:
    trimmed = prefix.rstrip(b"\xff")
    return trimmed[:-1] + bytes((trimmed[-1] + 1,)) if trimmed else None


class Database:
    """One LMDB environment with named tables, opened once per process."""

    def __init__(
        self,
        path: Path,
        tables: Sequence[str],
        *,
        write: bool = True,
        map_bytes: int = MAP_START_BYTES,
        mode: int = 0o755,
        trial: bool = False,
    ) -> None:
        """Open or, with `write`, create the environment in the directory `path`; to a reader, a
        table that is newer than the last writer is empty.

        `mode` is that of a directory to be made, and of the files, which nobody executes.
        `trial` is for a process that can afford to be ended by LMDB.

        Raises IntegrityError for a damaged file, NotFoundError when there is none to read.
        """
        self.path, self._write = path, write
        self._lock = threading.Lock()
        self._gate = threading.Condition(self._lock)
        self._readers = 0
        self._awaited = False
        self._growing = False
        self.tables: dict[str, Any] = dict.fromkeys(tables)
        """None for one that no writer has made yet."""
        self._absent = set(tables)
        file = path / "data.mdb"
        if not write and not (file.exists() and file.stat().st_size):
            raise NotFoundError(f"{path} holds no LMDB file; run dtafsctl reindex")
        if lengthen(file) and not trial:
            try_out(path, tables)
        try:
            self._env = lmdb.open(
                str(path),
                map_size=map_bytes,
                max_dbs=len(tables),
                max_readers=256,
                readonly=not write,
                create=write,
                mode=mode,
                subdir=True,
            )
            if write and file.stat().st_mode & 0o777 & ~mode:
                file.chmod(mode & 0o666)  # made before its rows had to be private
            self._env.set_mapsize(0) if self._env.info()["map_size"] > map_bytes else None
            if write:
                self._env.reader_check()
            self._examine(LOOKED_AT)
            self._open_tables()
            if tables and len(self._absent) == len(tables):
                raise lmdb.CorruptedError("it has none of its tables")
        except lmdb.Error as error:
            raise _translate(error, path) from error

    def _open_tables(self) -> None:
        """Open those that are not open yet. A writer makes them; one that none has made is empty."""
        for table in self._absent.copy():
            with contextlib.suppress(lmdb.NotFoundError):
                self.tables[table] = self._env.open_db(table.encode(), create=self._write)
                self._absent.discard(table)

    def examine(self) -> None:
        """Look at all pages without using them; IntegrityError when one is damaged."""
        self._examine(None)

    def _examine(self, most: int | None) -> None:
        for _ in range(EXAMINATIONS_MAX):
            with self._env.begin() as txn:  # keeps its pages from being used again meanwhile
                try:
                    examine(self.path / "data.mdb", txn.id(), most)
                    return
                except LookupError:
                    continue  # another process wrote twice since the txn began
        raise IntegrityError(f"{self.path} is damaged (its newest state is not in the file)")

    def read_through(self) -> None:
        """Reach every row and every free page; IntegrityError when one is lost.

        For a trial: LMDB may end the process instead.
        """
        self.examine()
        with self.read() as txn:
            for table in self.tables:
                if sum(1 for _row in txn.scan(table)) != txn.count(table):
                    raise IntegrityError(f"{self.path} has lost rows of the table {table!r}")
        try:
            with self._env.begin(write=True) as raw:
                for i in range(64):
                    raw.put(b"trial %d" % i, bytes(PAGE_BYTES))
                raw.abort()
        except lmdb.Error as error:
            raise _translate(error, self.path) from error

    def close(self) -> None:
        """Close the environment, once its readers are done; the object is of no use afterwards."""
        with self._gate:
            self._awaited = True
            self._gate.wait_for(lambda: not self._readers, CLOSE_WAIT_S)
        self._env.close()

    def read(self) -> Reading:
        """A consistent view for the length of a `with` block."""
        return Reading(self)

    def get(self, table: str, key: bytes) -> bytes | None:
        """The value of a key as it is now, or None."""
        with Reading(self) as txn:
            return txn.get(table, key)

    def enter(self) -> lmdb.Transaction:
        """For `Reading`: begin a read txn, which keeps the map from growing until `leave`."""
        with self._lock:
            while self._growing:
                self._gate.wait()
            self._readers += 1
            if self._absent:  # a writer may have come that makes them
                with contextlib.suppress(lmdb.MapResizedError):
                    self._open_tables()
        try:
            return self._begin()
        except BaseException:
            self.leave()
            raise

    def leave(self) -> None:
        """For `Reading`: the txn has ended."""
        with self._lock:
            self._readers -= 1
            if self._awaited:
                self._gate.notify_all()

    def _begin(self) -> lmdb.Transaction:
        try:
            return self._env.begin(buffers=False)
        except lmdb.MapResizedError:  # another process grew the map
            self._env.set_mapsize(0)
            return self._env.begin(buffers=False)

    def write(self, function: Callable[[Txn], T]) -> T:
        """Run `function` in one write txn and commit it durably.

        The function runs again from the start when the map had to grow, so it must have no other
        effect than through its txn.
        """
        if not self._write:
            raise RefusedError(f"{self.path} is open for reading only")
        while True:
            try:
                with self._env.begin(write=True) as txn:
                    result = function(Txn(txn, self.tables))
                lengthen(self.path / "data.mdb")
                return result
            except lmdb.MapFullError:
                self._grow()
            except lmdb.MapResizedError:
                self._exclusively(lambda: self._env.set_mapsize(0))
            except lmdb.Error as error:
                raise _translate(error, self.path) from error

    def _grow(self) -> None:
        size = self._env.info()["map_size"] * 2
        if size > MAP_LIMIT_BYTES:
            raise StorageFullError(f"the LMDB map of {self.path} has reached its limit")
        self._exclusively(lambda: self._env.set_mapsize(size))

    def _exclusively(self, change: Callable[[], None]) -> None:
        """Run `change` while no txn is open in this process, as the map demands."""
        with self._gate:
            while self._growing:
                self._gate.wait()
            self._growing = self._awaited = True
            try:
                while self._readers:
                    self._gate.wait()
                change()
            finally:
                self._growing = self._awaited = False
                self._gate.notify_all()

    @property
    def bytes_used(self) -> int:
        """Size of the file that is in use, in bytes."""
        return int((self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"])


class Reading:
    """One read txn, as a context manager. A class, and the locks taken bare, because staging and the
    index are asked for single rows: a generator with a Condition costs 5 us, the row itself 2."""

    __slots__ = ("_database", "_txn")

    def __init__(self, database: Database) -> None:
        self._database = database

    def __enter__(self) -> Txn:
        try:
            self._txn = self._database.enter()
        except lmdb.Error as error:
            raise _translate(error, self._database.path) from error
        return Txn(self._txn, self._database.tables)

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: object
    ) -> None:
        try:
            self._txn.abort()
        finally:
            self._database.leave()
        if isinstance(error, lmdb.Error):
            raise _translate(error, self._database.path) from error


def row_decoder(shape: type[T]) -> Callable[[bytes], T]:
    """A decoder of values that are MessagePack; what it gets instead of one is IntegrityError."""
    decode = msgspec.msgpack.Decoder(shape).decode

    def checked(value: bytes) -> T:
        try:
            return decode(value)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise IntegrityError(f"a row of an LMDB table is malformed: {error}") from None

    return checked


def try_out(path: Path, tables: Sequence[str]) -> None:
    """Raise IntegrityError unless another process could use the environment."""
    import subprocess  # hardly ever needed, and 1.5 ms of every command's start

    command = [sys.executable, "-m", "dtafs.store.probe", str(path), *tables]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise IntegrityError(done.stdout.strip() or f"{path / 'data.mdb'} is cut short")


def _translate(error: lmdb.Error, path: Path) -> DtafsError:
    text = str(error)
    if isinstance(error, lmdb.DiskError) or "No space left" in text:
        return StorageFullError(f"no room for {path}: free some space and try again")
    if isinstance(error, lmdb.PanicError):
        return StorageError(
            f"writing {path} failed before, so that this process cannot use it any more; "
            "nothing is lost: start it again when the disk is well"
        )
    if isinstance(error, lmdb.ReadersFullError):
        return BusyError(f"too many processes read {path} at once")
    if isinstance(error, (lmdb.LockError, lmdb.ReadonlyError)) or "Permission denied" in text:
        return RefusedError(f"no permission to use {path}: {text}")
    if isinstance(
        error,
        (
            lmdb.CorruptedError,
            lmdb.InvalidError,
            lmdb.PageNotFoundError,
            lmdb.PageFullError,
            lmdb.BadTxnError,
            lmdb.IncompatibleError,
            lmdb.VersionMismatchError,
            lmdb.NotFoundError,
        ),
    ):
        return IntegrityError(f"{path} is damaged ({text})")
    return StorageError(f"{path}: {text}")
