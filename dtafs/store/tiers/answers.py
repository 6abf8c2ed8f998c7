"""What an object store's answer means: which errors may pass, and what to do about the others.

Statuses and codes are those of the S3 API reference, section "Error responses"; other servers use
subsets of them.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from dtafs.errors import (
    DtafsError,
    NotFoundError,
    RecallError,
    RefusedError,
    StorageError,
    StorageFullError,
)
from dtafs.store.tiers.patience import Passing

THROTTLING = {
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "RequestLimitExceeded",
    "TooManyRequests",
}
PASSING_CODES = {
    "RequestTimeout",
    "ConditionalRequestConflict",
    "OperationAborted",
    "InternalError",
}
STALE_CREDENTIALS = {"ExpiredToken", "InvalidToken", "TokenRefreshRequired", "RequestExpired"}
BAD_CREDENTIALS = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidSecurity"}
FULL = re.compile(r"quota|storagefull|insufficientstorage|nospace|diskfull", re.IGNORECASE)
RETRY_AFTER_MAX_S = 30.0


class Answer(NamedTuple):
    """An answer that is no success: the status, and the code and message of its XML document."""

    status: int
    code: str
    message: str

    @property
    def text(self) -> str:
        """For a sentence: `503 SlowDown (please reduce your rate)`."""
        said = f" ({self.message.rstrip('.')})" if self.message else ""
        return f"{self.status} {self.code or 'without a reason'}{said}"


class StaleCredentials(Exception):
    """The store does not accept these credentials; newer ones may be there already."""

    def __init__(self, refusal: RefusedError) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal


def parse_answer(status: int, body: str) -> Answer:
    """An answer from its status and body, which need not be XML."""
    code = re.search(r"<Code>\s*([^<]*?)\s*</Code>", body)
    message = re.search(r"<Message>\s*([^<]*?)\s*</Message>", body)
    return Answer(status, code[1] if code else "", message[1] if message else "")


def failure_of(answer: Answer, tier: str, bucket: str, key: str, wait_s: float = 0.0) -> Exception:
    """What to raise for an answer: `Passing`, `StaleCredentials`, or one of dtafs's own errors."""
    status, code = answer.status, answer.code
    if FULL.search(code) or status == 507:
        return StorageFullError(
            f"tier {tier}: bucket {bucket!r} has no room left ({answer.text}); make room, nothing is lost"
        )
    if code in THROTTLING or status in (429, 503):
        return Passing(answer.text, "throttled", min(wait_s, RETRY_AFTER_MAX_S))
    if status == 408 or code == "RequestTimeout":
        return Passing(answer.text, "timeouts")
    if status in (500, 502, 504) or code in PASSING_CODES or (status == 409 and not code):
        return Passing(answer.text, "server_errors")
    if code in STALE_CREDENTIALS | BAD_CREDENTIALS:
        return StaleCredentials(_refusal(answer, tier, bucket))
    if code == "InvalidObjectState":
        return RecallError(f"{key} is archived in tier {tier}: recall it first")
    return _final(answer, tier, bucket, key)


def _refusal(answer: Answer, tier: str, bucket: str) -> RefusedError:
    expired = ", which have expired" if answer.code in STALE_CREDENTIALS else ""
    return RefusedError(
        f"tier {tier}: the store of bucket {bucket!r} does not accept the credentials{expired} "
        f"({answer.text}); put valid ones where they are looked for (README, Tiers)"
    )


def _final(answer: Answer, tier: str, bucket: str, key: str) -> DtafsError:
    status, code = answer.status, answer.code
    if code == "NoSuchBucket":
        return NotFoundError(
            f"tier {tier}: there is no bucket {bucket!r}; make it, or correct the tier's url or endpoint"
        )
    if status == 404:
        return NotFoundError(f"tier {tier} has no object {key}")
    if status in (301, 307) or code in (
        "AuthorizationHeaderMalformed",
        "IllegalLocationConstraint",
    ):
        return RefusedError(
            f"tier {tier}: bucket {bucket!r} is not in that region ({answer.text}); set the tier's region"
        )
    if code == "RequestTimeTooSkewed":
        return RefusedError(
            f"tier {tier}: the clock of this host is wrong by too much ({answer.text}); set it right"
        )
    if status in (401, 403):
        return RefusedError(
            f"tier {tier}: the store does not allow it in bucket {bucket!r} ({answer.text}); "
            "give these credentials the right to read, write, list and delete there"
        )
    return StorageError(f"tier {tier}: the store answered {answer.text} for {key}")
