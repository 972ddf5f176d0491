"""Ed25519 keys (RFC 8032): in PEM files for people, as hex in bundles."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from headrace.errors import InvalidConfig, InvalidRequest

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

MISSING = "needs `pip install 'headrace[evidence]'`"


class Signer:
    """Signs with one private key; loaded once, kept in memory."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.key = private.public_key().public_bytes_raw().hex()
        """The public key, in hex."""

    @classmethod
    def load(cls, path: Path, *, setting: str) -> Signer:
        """Read an unencrypted PKCS #8 PEM file, as ``openssl genpkey -algorithm ed25519`` writes.

        Raises `InvalidConfig` for *setting*.
        """
        try:
            from cryptography.exceptions import UnsupportedAlgorithm
            from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
            from cryptography.hazmat.primitives.serialization import load_pem_private_key
        except ImportError as error:
            raise InvalidConfig(setting, MISSING) from error
        try:
            private = load_pem_private_key(path.read_bytes(), password=None)
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise InvalidConfig(setting, f"{path}: {error}") from error
        if not isinstance(private, Ed25519PrivateKey):
            raise InvalidConfig(setting, f"{path} holds no Ed25519 key")
        return cls(private)

    def sign(self, statement: bytes) -> str:
        """Return the signature, in hex."""
        return self._private.sign(statement).hex()


def load_public_key(path: Path) -> str:
    """Return the public key in a PEM file (``openssl pkey -pubout``), in hex.

    Raises `InvalidRequest`.
    """
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ImportError as error:
        raise InvalidRequest(f"a key {MISSING}") from error
    try:
        public = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise InvalidRequest(f"{path}: {error}") from error
    if not isinstance(public, Ed25519PublicKey):
        raise InvalidRequest(f"{path} holds no public Ed25519 key")
    return public.public_bytes_raw().hex()


def signed(statement: bytes, *, key: str, signature: str) -> bool:
    """Tell whether *signature* is that of *key* (both hex) under *statement*.

    Raises `InvalidRequest` when the library for it is not installed.
    """
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError as error:
        raise InvalidRequest(f"a signature {MISSING}") from error
    try:
        public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key))
        public.verify(bytes.fromhex(signature), statement)
    except (InvalidSignature, ValueError):
        return False
    return True
