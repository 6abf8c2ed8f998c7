"""Asking the daemon that has a lake mounted to change it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias

from dtafs.errors import StorageError, error_of_kind
from dtafs.services.client_records import RemoteRecords
from dtafs.services.protocol import connect, decode_line, encode_line, socket_path
from dtafs.store.progress import Progress, Report

if TYPE_CHECKING:
    import socket

    from dtafs.store.session import Session

    AnySession: TypeAlias = "Session | RemoteSession"

PROGRAM = "dtafsctl"


class RemoteSession(RemoteRecords):
    """The methods of `dtafs.store.session.Session`, done by the daemon.

    Raises what the daemon raised, as the same class of error. StorageError when the daemon goes
    away before it has answered; what it was asked for may then have happened or not.
    """

    def __init__(self, connection: socket.socket, program: str = PROGRAM) -> None:
        self._connection = connection
        self._program = program
        self._stream: IO[bytes] = connection.makefile("rb")

    def __enter__(self) -> RemoteSession:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._stream.close()
        self._connection.close()

    def create(self, dataset: str, tags: Sequence[str] = ()) -> dict[str, Any]:
        """Create a dataset; `tags` go to its first version."""
        return self._ask("create", dataset=dataset, tags=list(tags))

    def put(
        self,
        dataset: str,
        paths: Sequence[str],
        into: str = "",
        delete: bool = False,
        read_bytes: int = 0,
        progress: Report | None = None,
    ) -> dict[str, Any]:
        """Stage files and directory trees of this host, which the daemon reads itself."""
        places = [os.path.join(os.getcwd(), path) for path in paths]
        wanted = {"paths": places, "into": into, "delete": delete, "read_bytes": read_bytes}
        return self._ask("put", progress, dataset=dataset, **wanted)

    def status(self, dataset: str) -> dict[str, Any]:
        """What staging adds, changes and removes against the newest version."""
        return self._ask("status", dataset=dataset)

    def commit(
        self,
        dataset: str,
        message: str,
        tags: Sequence[str] = (),
        allow_empty: bool = False,
        wait: bool = False,
        sources: Sequence[dict[str, Any]] = (),
        transform: dict[str, Any] | None = None,
        progress: Report | None = None,
    ) -> dict[str, Any]:
        """Seal staging as the next version; returns its facts."""
        return self._ask(
            "commit",
            progress,
            dataset=dataset,
            message=message,
            tags=list(tags),
            allow_empty=allow_empty,
            wait=wait,
            sources=list(sources),
            transform=transform,
        )

    def discard(self, dataset: str) -> dict[str, Any]:
        """Make staging the newest version again."""
        return self._ask("discard", dataset=dataset)

    def set_tags(
        self, dataset: str, version: int, add: Sequence[str] = (), remove: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Put tags on a version and take others off."""
        added, removed = list(add), list(remove)
        return self._ask("set_tags", dataset=dataset, version=version, add=added, remove=removed)

    def record(self, dataset: str, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        """Append an entry to the log of a dataset."""
        return self._ask("record", dataset=dataset, kind=kind, body=body)

    def stats(self) -> dict[str, Any]:
        """Counts and sizes of the lake."""
        return self._ask("stats")

    def reindex(self, progress: Report | None = None) -> dict[str, Any]:
        """Rebuild the index from the objects."""
        return self._ask("reindex", progress)

    def collect(
        self,
        grace_s: float | None = None,
        dry_run: bool = False,
        progress: Report | None = None,
    ) -> dict[str, Any]:
        """Delete what nothing reaches."""
        return self._ask("collect", progress, grace_s=grace_s, dry_run=dry_run)

    def repair(
        self, lakes: Sequence[str] = (), dry_run: bool = False, progress: Report | None = None
    ) -> dict[str, Any]:
        """Mend what is damaged, also with what other lakes on this host have."""
        places = [os.path.join(os.getcwd(), path) for path in lakes]
        return self._ask("repair", progress, lakes=places, dry_run=dry_run)

    def tier_add(self, name: str, settings: dict[str, Any]) -> dict[str, Any]:
        """Attach a tier."""
        return self._ask("tier_add", name=name, settings=settings)

    def tier_remove(self, name: str) -> dict[str, Any]:
        """Take a tier away."""
        return self._ask("tier_remove", name=name)

    def tier_list(self, probe: bool = False) -> dict[str, Any]:
        """All tiers, and whether they answer."""
        return self._ask("tier_list", probe=probe)

    def tier_move(
        self, what: Sequence[str], tier: str, progress: Report | None = None
    ) -> dict[str, Any]:
        """Move all packs that something needs to a tier."""
        return self._ask("tier_move", progress, what=list(what), tier=tier)

    def tier_recall(
        self, what: Sequence[str], wait: bool = True, progress: Report | None = None
    ) -> dict[str, Any]:
        """Bring all packs that something needs to the hot disk."""
        return self._ask("tier_recall", progress, what=list(what), wait=wait)

    def tier_pin(self, what: str = "", remove: bool = False) -> dict[str, Any]:
        """Keep something on the hot disk, or no longer."""
        return self._ask("tier_pin", what=what, remove=remove)

    def tier_plan(self, apply: bool = False) -> dict[str, Any]:
        """What the policy would move now, and why."""
        return self._ask("tier_plan", apply=apply)

    def tier_plan_read(self, what: Sequence[str]) -> dict[str, Any]:
        """What reading something would take."""
        return self._ask("tier_plan_read", what=list(what))

    def _ask(self, call: str, progress: Report | None = None, **arguments: Any) -> dict[str, Any]:
        request = {"call": call, "program": self._program, "arguments": arguments}
        try:
            self._connection.sendall(encode_line(request))
            while line := self._stream.readline():
                reply = decode_line(line)
                if "progress" in reply:
                    if progress is not None:
                        progress(Progress(**reply["progress"]))
                elif "error" in reply:
                    error = reply["error"]
                    raise error_of_kind(str(error["kind"]), str(error["message"]))
                else:
                    result: dict[str, Any] = reply["result"]
                    return result
        except OSError as error:
            raise StorageError(f"the connection to the daemon broke: {error}") from error
        raise StorageError("the daemon ended before it answered; its log is run/daemon.log")


def connect_to_daemon(lake: Path, program: str = PROGRAM) -> RemoteSession | None:
    """A session with the daemon of a lake, or None when no daemon has it mounted."""
    path = socket_path(lake)
    try:
        return RemoteSession(connect(path), program) if path.exists() else None
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
        return None
    except PermissionError:
        return None  # opening the lake itself then says what is not permitted


@contextlib.contextmanager
def open_session(path: Path, program: str, wait_s: float) -> Iterator[AnySession]:
    """What changes the lake at `path`: the daemon that has it mounted, else this process.

    Without a daemon the lake is locked while the block runs; BusyError names who else has it after
    `wait_s`.
    """
    remote = connect_to_daemon(path, program)
    if remote is not None:
        with remote:
            yield remote
        return
    from dtafs.store.handle import handle_of  # a daemon's client needs nothing of the store
    from dtafs.store.session import Session, actor_here

    with handle_of(path).writing(wait_s) as lake:
        yield Session(lake, actor_here(program))
        if lake.tiers:
            from dtafs.store.tiers.mirror import mirror_what_came

            mirror_what_came(lake)
