"""Certificates of a local cluster: an authority of its own, and one certificate for all nodes.

They are made once for a home and made again a month before they end; a cluster that runs reads them when its nodes start. The key
of the authority is not kept: nobody can sign with it later.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VALID = datetime.timedelta(days=825)
"""As long as common clients take a certificate for valid."""
EARLY = datetime.timedelta(days=30)


class Certificates(NamedTuple):
    """Files in PEM: the authority's certificate, the nodes' certificate and its key."""

    ca: Path
    cert: Path
    key: Path


def certificates(folder: Path, names: Sequence[str] = ("127.0.0.1", "localhost")) -> Certificates:
    """Returns the certificates in a folder; makes them if they are missing or end soon.

    Args:
        folder: is made, for its owner only.
        names: host names and addresses of the nodes.

    Raises:
        OSError: the folder cannot be written.
    """
    made = Certificates(folder / "ca.pem", folder / "node.pem", folder / "node.key")
    if all(path.exists() for path in made) and _are_good(made):
        return made
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer, subject = _named("Penstock local authority"), _named("Penstock broker")
    authority = (
        _certificate(issuer, issuer, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    node = (
        _certificate(subject, issuer, key.public_key())
        .add_extension(x509.SubjectAlternativeName([_name(each) for each in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        # nodes show it to clients, and to each other when they connect
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    write_privately(made.ca, authority.public_bytes(serialization.Encoding.PEM))
    write_privately(made.cert, node.public_bytes(serialization.Encoding.PEM))
    write_privately(
        made.key,
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )
    return made


def _certificate(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + VALID)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _are_good(made: Certificates) -> bool:
    """Whether the files fit and do not end soon: who made them may have been killed between two of them."""
    try:
        authority, node = (x509.load_pem_x509_certificate(path.read_bytes()) for path in (made.ca, made.cert))
        node.verify_directly_issued_by(authority)
        key = serialization.load_pem_private_key(made.key.read_bytes(), None)
    except (ValueError, TypeError, InvalidSignature):
        return False
    fits = key.public_key() == node.public_key()
    return fits and node.not_valid_after_utc - EARLY > datetime.datetime.now(datetime.UTC)


def write_privately(path: Path, content: bytes) -> None:
    """Writes a file that only its owner can read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
