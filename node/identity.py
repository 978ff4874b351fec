"""A member's Ed25519 key: made on first start, kept in a file only its owner may read.

libsodium (PyNaCl) alone decides whether a signature is valid; mixing libraries could split the
replicas' verdicts.
"""

import os
from functools import lru_cache
from pathlib import Path

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from node.errors import ConfigError

KEY_BYTES = 32
_KEYS_CACHED = 1024


class Identity:
    """One member's signing key; the private part never leaves this object."""

    def __init__(self, seed: bytes) -> None:
        self._key = SigningKey(seed)

    @property
    def public_key(self) -> bytes:
        """The key by which others know this member (32 bytes)."""
        return bytes(self._key.verify_key)

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte Ed25519 signature of `message`."""
        return self._key.sign(message).signature

    @classmethod
    def load_or_create(cls, path: Path) -> "Identity":
        """Read the key file, or make a key and write it with mode 0600, durably.

        The file appears with all of its content at once: a power cut leaves a key or none.

        Raises:
            ConfigError: The file is readable by others or is not a key.
        """
        try:
            return cls.load(path)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            seed = bytes(SigningKey.generate())
            _write_once(path, seed)
            return cls(seed)

    @classmethod
    def load(cls, path: Path) -> "Identity":
        """Read the key file.

        Raises:
            FileNotFoundError: There is none.
            ConfigError: The file is readable by others or is not a key.
        """
        mode = path.stat().st_mode & 0o777
        if mode & 0o077:
            raise ConfigError(
                f"{path} has mode {mode:o}, others may read it; run: chmod 600 {path}"
            )
        seed = path.read_bytes()
        if len(seed) != KEY_BYTES:
            raise ConfigError(
                f"{path} holds {len(seed)} bytes, a key has {KEY_BYTES}; restore it from a backup"
            )
        return cls(seed)


def _write_once(path: Path, seed: bytes) -> None:
    """Write a file that only its owner may read and that is not there yet."""
    draft = path.with_name(path.name + ".draft")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(seed)
        file.flush()
        os.fsync(file.fileno())
    # A link, unlike a rename, never replaces a key that somebody else has made meanwhile.
    os.link(draft, path)
    draft.unlink()
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@lru_cache(maxsize=_KEYS_CACHED)
def _verify_key(public_key: bytes) -> VerifyKey:
    return VerifyKey(public_key)


class SodiumVerifier:
    """Checks Ed25519 signatures with libsodium."""

    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        """Whether `signature` is `public_key`'s signature of `message`."""
        try:
            _verify_key(public_key).verify(message, signature)
        except (BadSignatureError, ValueError):
            return False
        return True
