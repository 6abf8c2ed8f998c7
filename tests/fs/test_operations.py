"""The adapter: whatever a handler raises, the kernel gets an errno and the mount goes on."""

from __future__ import annotations

import errno
import logging

import pyfuse3
import pytest
import trio

from dtafs.errors import (
    OUTCOMES,
    DtafsError,
    IntegrityError,
    NotFoundError,
    StorageError,
    StorageFullError,
    outcome_of,
)
from dtafs.fs.area import OpenFile
from dtafs.fs.operations import Operations, guarded


class Context:
    """A caller, as pyfuse3 shows one."""

    uid, gid, pid, umask = 1000, 1000, 1, 0o022


async def outcome(error: BaseException) -> int:
    """The errno that a handler which raises `error` answers with."""

    @guarded
    async def handler() -> None:
        raise error

    with pytest.raises(pyfuse3.FUSEError) as caught:
        await handler()
    return int(caught.value.errno)


@pytest.mark.parametrize("kind", sorted(OUTCOMES, key=lambda cls: cls.__name__))
async def test_each_error_of_ours_has_its_errno(kind: type[DtafsError]) -> None:
    assert await outcome(kind("text")) == outcome_of(kind("text")).errno


async def test_other_errors() -> None:
    assert await outcome(OSError(errno.ENOTEMPTY, "not empty")) == errno.ENOTEMPTY
    assert await outcome(OSError("no number")) == errno.EIO
    assert await outcome(pyfuse3.FUSEError(errno.ENOSYS)) == errno.ENOSYS


async def test_what_nobody_expected_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    assert await outcome(ZeroDivisionError("a defect")) == errno.EIO
    assert "a defect" in caplog.text and "Traceback" in caplog.text


async def test_what_a_user_can_cause_is_no_error_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        await outcome(NotFoundError("there is no such thing"))
        assert {record.levelno for record in caplog.records} == {logging.INFO}
        await outcome(IntegrityError("pack 12 is damaged"))
        await outcome(StorageError("the disk is gone"))
    assert [record.levelno for record in caplog.records[1:]] == [logging.ERROR] * 2


async def test_cancellation_passes() -> None:
    @guarded
    async def handler() -> None:
        await trio.sleep_forever()

    with trio.move_on_after(0) as scope:
        await handler()
    assert scope.cancelled_caught


async def test_every_handler_is_guarded() -> None:
    unguarded = {
        name
        for name in vars(pyfuse3.Operations)
        if not name.startswith("_") and callable(getattr(pyfuse3.Operations, name))
        if name in vars(Operations) and not hasattr(vars(Operations)[name], "__wrapped__")
    }
    assert unguarded == {"init", "forget"}, "these two must not raise at all"


async def test_the_question_before_every_write_needs_no_namespace() -> None:
    operations = Operations(None, "/", 1.0)  # type: ignore[arg-type]
    for name in (b"security.capability", b"system.posix_acl_access", b"trusted.x"):
        with pytest.raises(pyfuse3.FUSEError) as caught:
            await operations.getxattr(5, name, Context())  # type: ignore[arg-type]
        assert caught.value.errno == errno.ENODATA


async def test_flush_is_left_to_the_kernel() -> None:
    operations = Operations(None, "/", 1.0)  # type: ignore[arg-type]
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await operations.flush(1)
    assert caught.value.errno == errno.ENOSYS


async def test_at_the_end_one_file_that_is_not_released_keeps_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Opened(OpenFile):
        def __init__(self, failure: Exception | None) -> None:
            self.failure, self.released = failure, False

        async def release(self) -> None:
            self.released = True
            if self.failure is not None:
                raise self.failure

    operations = Operations(None, "/", 1.0)  # type: ignore[arg-type]
    failures = (StorageFullError("no space left"), OSError(errno.EIO, "broken"), None)
    opened = [Opened(failure) for failure in failures]
    operations._files = dict(enumerate(opened))  # type: ignore[assignment]
    await operations.release_all()
    assert all(one.released for one in opened)
    assert "no space left" in caplog.text and "broken" in caplog.text
