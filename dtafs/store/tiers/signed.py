"""Requests to an S3-compatible store that its client library has no call for, signed by hand.

Signature Version 4 of the AWS reference ("Authenticating Requests: Using the Authorization Header"),
path-style addresses. One request a connection: there are few, and none carries data.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import http.client
import socket
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from dtafs.errors import UsageError
from dtafs.store.tiers.credentials import WITH_CREDENTIALS, Credentials
from dtafs.store.tiers.patience import Passing

BODY_LIMIT_BYTES = 64 * 1024


class Reply(NamedTuple):
    """Status, headers in lower case, and the beginning of the body."""

    status: int
    headers: Mapping[str, str]
    body: str


class Target(NamedTuple):
    """Where a bucket is."""

    endpoint: str
    region: str
    bucket: str


def check_endpoint(endpoint: str) -> str:
    """The endpoint without a slash at its end; UsageError unless it is the URL of a host."""
    parts = urllib.parse.urlsplit(endpoint)
    try:
        whole = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1) > 0
    except ValueError:
        whole = False
    if "@" in parts.netloc:
        raise UsageError(WITH_CREDENTIALS.format("endpoint's URL"))
    if not whole or parts.query or parts.fragment or parts.path not in ("", "/"):
        raise UsageError(f"{endpoint!r} is no endpoint: write http://HOST:PORT or https://HOST")
    return endpoint.rstrip("/")


def request(
    target: Target,
    credentials: Credentials,
    method: str,
    key: str,
    query: Mapping[str, str],
    *,
    timeout_s: float,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """Make one request, `key` being "" for the bucket itself. Any answer is a Reply; `Passing`
    when there is none."""
    path = "/" + urllib.parse.quote(f"{target.bucket}/{key}" if key else target.bucket, safe="/~")
    asked = "&".join(f"{_quoted(name)}={_quoted(query[name])}" for name in sorted(query))
    url = f"{target.endpoint}{path}" + (f"?{asked}" if asked else "")
    sent = _signed(target, credentials, method, path, asked, body, headers or {})
    made = urllib.request.Request(url, data=body or None, method=method, headers=sent)
    opener = urllib.request.build_opener(_NoRedirect)
    try:
        with opener.open(made, timeout=timeout_s) as answer:
            return _reply(answer.status, answer.headers.items(), answer.read(BODY_LIMIT_BYTES))
    except urllib.error.HTTPError as error:
        with error:
            return _reply(error.code, error.headers.items(), error.read(BODY_LIMIT_BYTES))
    except TimeoutError:
        raise Passing(f"no answer within {timeout_s:g} s", "timeouts") from None
    except (urllib.error.URLError, OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        if isinstance(reason, TimeoutError | socket.timeout):
            raise Passing(f"no answer within {timeout_s:g} s", "timeouts") from None
        if isinstance(reason, ssl.SSLCertVerificationError):
            reason = f"its certificate is not trusted: {reason.verify_message}"
        raise Passing(
            f"the connection to {target.endpoint} failed ({reason})", "connection_errors"
        ) from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect of an object store says that the region is wrong; its signature would be, too."""

    def redirect_request(self, *_arguments: object) -> None:
        return None


def _reply(status: int, headers: Iterable[tuple[str, str]], body: bytes) -> Reply:
    lowered = {name.lower(): value for name, value in headers}
    return Reply(status, lowered, body.decode(errors="replace"))


def _quoted(text: str) -> str:
    return urllib.parse.quote(text, safe="-_.~")


def _signed(
    target: Target,
    credentials: Credentials,
    method: str,
    path: str,
    query: str,
    body: bytes,
    headers: Mapping[str, str],
) -> dict[str, str]:
    """The headers of a request with its signature."""
    now = datetime.datetime.now(datetime.UTC)
    stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
    digest = hashlib.sha256(body).hexdigest()
    sent = {name.lower(): value for name, value in headers.items()}
    sent.setdefault("content-type", "application/xml")  # urllib would call it a form
    sent["host"] = urllib.parse.urlsplit(target.endpoint).netloc
    sent["x-amz-content-sha256"], sent["x-amz-date"] = digest, stamp
    if credentials.token:
        sent["x-amz-security-token"] = credentials.token
    names = ";".join(sorted(sent))
    lines = "".join(f"{name}:{sent[name].strip()}\n" for name in sorted(sent))
    canonical = "\n".join((method, path, query, lines, names, digest))
    scope = f"{day}/{target.region}/s3/aws4_request"
    hashed = hashlib.sha256(canonical.encode()).hexdigest()
    message = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashed}"
    key = b"AWS4" + credentials.secret_key.encode()
    for part in (day, target.region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, message.encode(), "sha256").hex()
    sent["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope}, "
        f"SignedHeaders={names}, Signature={signature}"
    )
    return sent
