"""What answers of object stores mean that the servers of the tests do not give."""

from __future__ import annotations

import pytest

from dtafs.errors import DtafsError, NotFoundError, RefusedError, StorageError, StorageFullError
from dtafs.store.tiers.answers import StaleCredentials, failure_of, parse_answer
from dtafs.store.tiers.patience import Passing

DOCUMENT = "<?xml version='1.0'?>\n<Error><Code>{}</Code><Message>Some text.</Message></Error>"


def failure(status: int, code: str, wait_s: float = 0.0) -> Exception:
    answer = parse_answer(status, DOCUMENT.format(code) if code else "")
    return failure_of(answer, "warm", "lakes", "packs/x", wait_s)


@pytest.mark.parametrize(
    ("status", "code", "expected", "said"),
    [
        (301, "PermanentRedirect", RefusedError, "set the tier's region"),
        (400, "AuthorizationHeaderMalformed", RefusedError, "set the tier's region"),
        (403, "RequestTimeTooSkewed", RefusedError, "the clock of this host"),
        (403, "AccessDenied", RefusedError, "give these credentials the right"),
        (404, "NoSuchBucket", NotFoundError, "there is no bucket 'lakes'"),
        (404, "NoSuchKey", NotFoundError, "has no object packs/x"),
        (403, "QuotaExceeded", StorageFullError, "no room left"),
        (507, "XMinioStorageFull", StorageFullError, "no room left"),
        (400, "EntityTooLarge", StorageError, "the store answered 400 EntityTooLarge (Some text)"),
        (418, "", StorageError, "418 without a reason"),
    ],
)
def test_what_does_not_pass(status: int, code: str, expected: type[DtafsError], said: str) -> None:
    found = failure(status, code)
    assert type(found) is expected
    assert said in str(found) and "tier warm" in str(found)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (429, "", "throttled"),
        (503, "", "throttled"),
        (400, "ThrottlingException", "throttled"),
        (400, "RequestTimeout", "timeouts"),
        (408, "", "timeouts"),
        (500, "InternalError", "server_errors"),
        (502, "", "server_errors"),
        (504, "", "server_errors"),
        (409, "ConditionalRequestConflict", "server_errors"),
        (409, "OperationAborted", "server_errors"),
    ],
)
def test_what_may_pass(status: int, code: str, kind: str) -> None:
    found = failure(status, code)
    assert isinstance(found, Passing) and found.kind == kind


def test_how_long_to_wait_is_obeyed_within_bounds() -> None:
    for asked_s, obeyed_s in ((3.0, 3.0), (86_400.0, 30.0)):
        found = failure(503, "SlowDown", asked_s)
        assert isinstance(found, Passing) and found.wait_s == obeyed_s


@pytest.mark.parametrize("code", ["ExpiredToken", "InvalidAccessKeyId", "SignatureDoesNotMatch"])
def test_credentials_that_are_looked_for_again(code: str) -> None:
    found = failure(403, code)
    assert isinstance(found, StaleCredentials)
    assert "does not accept the credentials" in str(found.refusal)
