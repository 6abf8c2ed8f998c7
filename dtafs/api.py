"""The Python API: `Lake`, `Dataset`, `Transform`.

    from dtafs import Dataset
    ds = Dataset.create("WF-2024-07", tags=["raw"])
    ds.put_file("sensorA.csv")
    ds.commit("Initial sensor dump")
    print(ds.version_id)                          # WF-2024-07:v1
    with (ds.latest / "sensorA.csv").open("rb") as file: …

Without a lake given, `Dataset` works in the lake that `DTAFS_LAKE` names, else in the one in the
user data directory, which `Dataset.create` makes when it is not there. Each change is asked of the
daemon when one has the lake mounted, and made in this process, under the lake's lock, when none
has. Reading needs neither. Errors are those of `dtafs.errors`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dtafs.core.names import check_dataset_name, check_tag
from dtafs.errors import NotFoundError, UsageError
from dtafs.services.client import open_session
from dtafs.store import lake as store
from dtafs.store.handle import Handle, handle_of
from dtafs.store.index import VersionRow
from dtafs.store.places import default_lake_path
from dtafs.store.reading import VersionPath
from dtafs.store.trim import trim_dataset

if TYPE_CHECKING:
    from dtafs.services.client import AnySession

__all__ = ["Dataset", "Lake", "Transform", "Version", "VersionPath"]

PROGRAM = "python"
WRITER_WAIT_S = 10.0
"""How long a change waits for another process that is using the lake."""
CHUNK_BYTES = 8 * 1024 * 1024

StrPath = str | os.PathLike[str]


def _program() -> str:
    """What the log calls this program: Python, with its script where there is one."""
    import sys

    script = os.path.basename(sys.argv[0]) if sys.argv and sys.argv[0] not in ("", "-c") else ""
    return f"{PROGRAM} {script}".rstrip()


class Lake:
    """A lake in a directory, open for reading; other processes may change it meanwhile."""

    def __init__(self, path: StrPath) -> None:
        self.path = Path(path).expanduser().absolute()
        self._handle: Handle | None = handle_of(self.path)
        with self.handle.reading():
            pass

    @classmethod
    def open(cls, path: StrPath | None = None) -> Lake:
        """The lake at `path`, or the default one; NotFoundError when there is none."""
        return cls(default_lake_path(os.environ) if path is None else path)

    @classmethod
    def create(cls, path: StrPath | None = None) -> Lake:
        """Make a lake in a directory that is absent or empty."""
        target = default_lake_path(os.environ) if path is None else Path(path).expanduser()
        store.Lake.create(target.absolute()).close()
        return cls(target)

    def __enter__(self) -> Lake:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Lake({str(self.path)!r})"

    def close(self) -> None:
        """Let go of the lake; paths in it that are still held open it again when they are used."""
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.rest()

    @property
    def handle(self) -> Handle:
        """The way to the lake in the layer below."""
        if self._handle is None:
            raise UsageError(f"{self!r} is closed")
        return self._handle

    @property
    def id(self) -> str:
        """The lake's own name for itself, 32 hex digits."""
        with self.handle.reading() as lake:
            return lake.superblock.lake

    @property
    def public_key(self) -> str:
        """The Ed25519 key that signs its log, in hex."""
        with self.handle.reading() as lake:
            return lake.superblock.public_key

    def session(self) -> contextlib.AbstractContextManager[AnySession]:
        """What changes the lake, for the length of a block."""
        return open_session(self.path, _program(), WRITER_WAIT_S)

    def datasets(self) -> list[Dataset]:
        """All datasets, sorted by name."""
        with self.handle.reading() as lake:
            return [Dataset(row.name, self) for row in lake.datasets()]

    def dataset(self, name: str) -> Dataset:
        """A dataset; NotFoundError names the nearest that exists."""
        with self.handle.reading() as lake:
            return Dataset(lake.dataset(name).name, self)

    def create_dataset(self, name: str, tags: Iterable[str] = ()) -> Dataset:
        """Create a dataset; `tags` go to its first version."""
        with self.session() as session:
            session.create(name, list(tags))
        return Dataset(name, self)

    def version(self, spec: str) -> Version:
        """A version: `D:v3`, `D:tag`, `D:latest` or `D@2024-07-04T12:00Z`."""
        with self.handle.reading() as lake:
            row = lake.resolve(spec)
        return Version(Dataset(row.dataset, self), row.number)

    def stats(self) -> dict[str, Any]:
        """Counts and sizes."""
        from dtafs.store.stats import collect_stats

        with self.handle.reading() as lake:
            return collect_stats(lake)


class Dataset:
    """A dataset: its sealed versions, and the way to the next. Get one by `create` or `open`."""

    def __init__(self, name: str, lake: Lake) -> None:
        self.name, self.lake = name, lake
        self._committed: int | None = None
        self._sources: list[dict[str, Any]] = []
        self._transform: dict[str, Any] | None = None

    @classmethod
    def create(cls, name: str, tags: Iterable[str] = (), *, lake: Lake | None = None) -> Dataset:
        """Create a dataset; `tags` go to its first version. ConflictError when it exists."""
        check_dataset_name(name)
        tags = [check_tag(tag) for tag in tags]
        return (lake or _default_lake()).create_dataset(name, tags)

    @classmethod
    def open(cls, name: str, *, lake: Lake | None = None) -> Dataset:
        """A dataset that exists; NotFoundError names the nearest that does."""
        return (lake or Lake.open()).dataset(name)

    def __repr__(self) -> str:
        return f"Dataset({self.name!r})"

    def put_file(
        self, path: StrPath, chunk: int = CHUNK_BYTES, into: str | None = None
    ) -> dict[str, Any]:
        """Stage one file under its own name, in the directory `into` if given.

        It is streamed in pieces of `chunk` bytes (between 1 and 64 MiB): while one is read and
        hashed, those before it are compressed on the other cores. When this returns, the lake no
        longer needs the file. Many files go faster through `put`, which syncs the disk once.
        """
        if chunk < 1:
            raise UsageError("chunk must be at least one byte")
        if not Path(path).exists():
            raise NotFoundError(f"there is no file {str(path)!r}")
        if Path(path).is_dir():
            raise UsageError(f"{str(path)!r} is a directory; stage it with put()")
        return self.put([path], into=into, read_bytes=chunk)

    def put(
        self,
        paths: Sequence[StrPath],
        into: str | None = None,
        delete: bool = False,
        read_bytes: int = 0,
    ) -> dict[str, Any]:
        """Stage files and directories, in parallel; see `dtafsctl put`.

        Each thread reads `read_bytes` at once, 0 for the usual.
        """
        names = [os.path.join(os.getcwd(), os.fspath(path)) for path in paths]
        with self.lake.session() as session:
            return session.put(self.name, names, into or "", delete, read_bytes)

    def status(self) -> dict[str, Any]:
        """What staging adds, changes and removes against the newest version."""
        with self.lake.session() as session:
            return session.status(self.name)

    def commit(
        self,
        message: str,
        tags: Iterable[str] = (),
        *,
        sources: Iterable[Version] = (),
        transform: dict[str, Any] | None = None,
        allow_empty: bool = False,
        wait: bool = False,
    ) -> Version:
        """Seal staging as the next version.

        `sources` are the versions that it was made from and `transform` says how: a dict with
        `name`, and maybe `parameters` and `program_sha256`.
        """
        made_from = [source.as_source() for source in sources] or self._sources
        with self.lake.session() as session:
            facts = session.commit(
                self.name,
                message,
                list(tags),
                allow_empty=allow_empty,
                wait=wait,
                sources=made_from,
                transform=transform if transform is not None else self._transform,
            )
        self._committed = int(facts["version"])
        self._sources, self._transform = [], None
        return Version(self, self._committed)

    def discard(self) -> None:
        """Drop what is staged and not committed."""
        with self.lake.session() as session:
            session.discard(self.name)
        self._sources, self._transform = [], None

    def made_from(self, source: Version, transform: dict[str, Any]) -> None:
        """Say what the next commit through this object is made from, and how."""
        self._sources, self._transform = [source.as_source()], transform

    @property
    def version_id(self) -> str:
        """`NAME:vN`: what this object committed last, else the newest version."""
        return (self[self._committed] if self._committed else self.latest).id

    @property
    def versions(self) -> list[Version]:
        """All versions, oldest first."""
        with self.lake.handle.reading() as lake:
            return [Version(self, row.number) for row in lake.versions(self.name)]

    @property
    def tags(self) -> dict[str, Version]:
        """Every tag in use, with the newest version that carries it."""
        with self.lake.handle.reading() as lake:
            found = lake.index.tags(self.name)
        return {tag: Version(self, number) for tag, number in found.items()}

    @property
    def latest(self) -> Version:
        """The newest version; NotFoundError when there is none yet."""
        return self.lake.version(self.name)

    def __getitem__(self, key: int | str) -> Version:
        """A version by number, by `"v3"` or by tag."""
        spec = f"v{key}" if isinstance(key, int) else key
        return self.lake.version(f"{self.name}:{spec}")

    def __truediv__(self, name: str) -> VersionPath:
        """A path in the newest version."""
        return self.latest / name


class Version:
    """A sealed version. `version / "a" / "b.csv"` is a path in it."""

    def __init__(self, dataset: Dataset, number: int) -> None:
        self.dataset, self.number = dataset, number

    @property
    def row(self) -> VersionRow:
        """The facts of the version; its tags are those of now."""
        with self.dataset.lake.handle.reading() as lake:
            return lake.resolve(self.id)

    @property
    def id(self) -> str:
        return f"{self.dataset.name}:v{self.number}"

    @property
    def sha256(self) -> str:
        """The hash of the version, in hex: it covers every byte of every file."""
        return self.row.manifest_sha256.hex()

    @property
    def message(self) -> str:
        return self.row.manifest.message

    @property
    def time_ns(self) -> int:
        """When it was sealed, in nanoseconds since the epoch."""
        return self.row.time_ns

    @property
    def tags(self) -> tuple[str, ...]:
        return self.row.tags

    @property
    def files(self) -> int:
        return self.row.manifest.files

    @property
    def size_bytes(self) -> int:
        return self.row.manifest.size_bytes

    @property
    def root(self) -> VersionPath:
        """Its top directory."""
        return VersionPath.top_of(self.dataset.lake.handle, self.row)

    def __truediv__(self, name: str) -> VersionPath:
        return self.root / name

    def __repr__(self) -> str:
        return f"Version({self.id!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Version) and (self.id, self.dataset.lake.path) == (
            other.id,
            other.dataset.lake.path,
        )

    def __hash__(self) -> int:
        return hash(self.id)

    def add_tags(self, *tags: str) -> None:
        """Put tags on the version."""
        with self.dataset.lake.session() as session:
            session.set_tags(self.dataset.name, self.number, add=tags)

    def remove_tags(self, *tags: str) -> None:
        """Take tags off the version."""
        with self.dataset.lake.session() as session:
            session.set_tags(self.dataset.name, self.number, remove=tags)

    def as_source(self) -> dict[str, Any]:
        """How a manifest names what it was made from."""
        return {"dataset": self.dataset.name, "version": self.number, "manifest": self.sha256}


class Transform:
    """Ways to make a version from another, with the lineage recorded when it is committed."""

    @staticmethod
    def csv_trim(dataset: Dataset, cols: Sequence[str]) -> Dataset:
        """Stage the newest version with the columns `cols`, in this order, of every CSV file.

        Returns the dataset, to be committed. Files whose name does not end in .csv stay as they
        are. UsageError names a file that lacks a column; ConflictError when work is staged already;
        staging is as it was then.
        """
        source = dataset.latest
        with dataset.lake.session() as session:
            transform = trim_dataset(source.root, session, dataset.name, tuple(cols))
        result = Dataset(dataset.name, dataset.lake)
        result.made_from(source, transform)
        return result


def _default_lake() -> Lake:
    """The default lake, made when it is not there."""
    path = default_lake_path(os.environ)
    return Lake(path) if os.path.lexists(path / "lake.json") else Lake.create(path)
