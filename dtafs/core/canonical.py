"""Canonical JSON (RFC 8785): one byte string for one value, so that it can be hashed and signed."""

from __future__ import annotations

import msgspec
import rfc8785

from dtafs.errors import UsageError


def canonical_json(value: object) -> bytes:
    """RFC 8785 bytes of a struct or plain values; UsageError for what JSON cannot hold."""
    try:
        return rfc8785.dumps(msgspec.to_builtins(value))
    except (rfc8785.CanonicalizationError, UnicodeEncodeError) as error:
        raise UsageError(f"this cannot be written to the log: {error}") from None
