"""The gate to `cryptography`: Ed25519 keys of a lake, and the signed envelopes of its log.

Its `serialization` takes 9 ms to import, and every command that changes something reads a key. So
the form in which keys are written is read here, and only what looks different is left to it.
"""

from __future__ import annotations

import base64
import hashlib
import os
import stat
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from dtafs.core.entries import Envelope, encode_envelope, pre_authentication
from dtafs.core.format import Superblock, superblock_message
from dtafs.errors import IntegrityError, RefusedError, from_os_error

_PEM_BEGIN, _PEM_END = b"-----BEGIN PRIVATE KEY-----\n", b"\n-----END PRIVATE KEY-----\n"
_PKCS8_BEGIN = bytes.fromhex("302e020100300506032b657004220420")
KEY_BYTES = 32
"""RFC 8410: an Ed25519 key in PKCS #8 is those bytes and so many more."""


def key_id(public_key: bytes) -> str:
    """The `keyid` of a raw public key."""
    return hashlib.sha256(public_key).hexdigest()[:16]


class Signer:
    """Signs with the private key of a lake."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public_key = key.public_key().public_bytes_raw()

    @staticmethod
    def generate() -> tuple[Signer, bytes]:
        """A new key, and the PEM text (PKCS #8, not encrypted) to keep it in."""
        from cryptography.hazmat.primitives import serialization

        key = Ed25519PrivateKey.generate()
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return Signer(key), pem

    @staticmethod
    def load(path: Path) -> Signer:
        """The key in a file; RefusedError when there is none, or others may read it, IntegrityError if
        it is no key."""
        try:
            if os.stat(path).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise RefusedError(f"the signing key {path} must be private: run chmod 600 on it")
            pem = path.read_bytes()
        except FileNotFoundError:
            raise RefusedError(
                f"the signing key {path} is not there: put it back from its backup to change the lake; "
                "without it the lake can be read, and mounted with --read-only"
            ) from None
        except OSError as error:
            raise from_os_error(error, "reading the signing key") from error
        raw = _raw_key(pem)
        key = _any_key(pem) if raw is None else Ed25519PrivateKey.from_private_bytes(raw)
        if not isinstance(key, Ed25519PrivateKey):
            raise IntegrityError(f"the signing key {path} is damaged: restore it from a backup")
        return Signer(key)

    def sign(self, message: bytes) -> bytes:
        """The 64-byte signature of `message`."""
        return self._key.sign(message)

    def seal_entry(self, payload: bytes) -> bytes:
        """The object of a log entry with this payload."""
        return encode_envelope(
            payload, key_id(self.public_key), self.sign(pre_authentication(payload))
        )

    def seal_superblock(self, block: Superblock) -> Superblock:
        """The superblock with its signature."""
        return msgspec.structs.replace(block, signature=self.sign(superblock_message(block)).hex())


def _raw_key(pem: bytes) -> bytes | None:
    """The private key in a text as `Signer.generate` makes it; None for any other."""
    if not (pem.startswith(_PEM_BEGIN) and pem.endswith(_PEM_END)):
        return None
    try:
        data = base64.b64decode(pem[len(_PEM_BEGIN) : -len(_PEM_END)], validate=True)
    except ValueError:
        return None
    begin, raw = data[: len(_PKCS8_BEGIN)], data[len(_PKCS8_BEGIN) :]
    return raw if begin == _PKCS8_BEGIN and len(raw) == KEY_BYTES else None


def _any_key(pem: bytes) -> object:
    """The key in a PEM text of any form, or None."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    try:
        return serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None


def verify(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether the signature is that of the key's owner over the message."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def verify_envelope(public_key: bytes, envelope: Envelope, what: str) -> None:
    """Raise IntegrityError unless one of the envelope's signatures is by `public_key`."""
    message, ours = pre_authentication(envelope.payload), key_id(public_key)
    signatures = [s.sig for s in envelope.signatures if s.keyid == ours]
    if not any(verify(public_key, signature, message) for signature in signatures):
        raise IntegrityError(
            f"the signature of {what} does not verify: it was altered or is not of this lake"
        )


def verify_superblock(block: Superblock) -> None:
    """Raise IntegrityError unless the superblock is signed by the key that it names."""
    try:
        public_key, signature = bytes.fromhex(block.public_key), bytes.fromhex(block.signature)
    except ValueError:
        raise IntegrityError("lake.json is damaged: a key or signature is not hex") from None
    intact = signature.hex() == block.signature  # upper case would verify too
    if not intact or not verify(public_key, signature, superblock_message(block)):
        raise IntegrityError("the signature of lake.json does not verify: it was altered")
