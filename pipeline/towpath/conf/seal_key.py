"""The key that signs seals: Ed25519, so that openssl alone can check a signature.

`cryptography` is loaded for it, and only then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_INSTALL = "pip install 'towpath[seals]'"
_MAKE = "make one with `openssl genpkey -algorithm ed25519`"


def problem(pem: str) -> str:
    """Return what is wrong with a key and how to fix it, to follow its variable; empty if it is fine. Never quotes
    it."""
    try:
        private_key(pem)
    except ModuleNotFoundError:
        return f"needs cryptography, which is not installed: {_INSTALL}"
    except ValueError as error:
        return str(error)
    return ""


def private_key(pem: str) -> Ed25519PrivateKey:
    """The key of a PEM text. Raises ValueError, which does not quote it, or ModuleNotFoundError."""
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - an extra
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415 - an extra
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415 - an extra

    try:
        key = load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError(f"is not a private key in PEM without a password: {_MAKE}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(f"is not an Ed25519 key: {_MAKE}")  # noqa: TRY004 - it is the value of a variable
    return key


def public_pem(pem: str) -> str:
    """Return the public part of a private key, as PEM."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat  # noqa: PLC0415 - an extra

    key = private_key(pem).public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def public_key(pem: str) -> Ed25519PublicKey:
    """The key of a PEM text. Raises ValueError or ModuleNotFoundError."""
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - an extra
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415 - an extra
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415 - an extra

    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("it is not a public key in PEM: print one with `openssl pkey -in KEY -pubout`") from None
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError("it is not an Ed25519 key")  # noqa: TRY004 - it is the content of a file
    return key
