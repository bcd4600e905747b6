"""A certificate authority of a test's own."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Certificates(NamedTuple):
    """PEM files: the authority, a certificate for 127.0.0.1 that it signed, valid today, and its key."""

    authority: Path
    server: Path
    key: Path


def certificates_in(folder: Path) -> Certificates:
    """A new authority and a server's certificate."""
    made = Certificates(folder / "ca.pem", folder / "server.pem", folder / "key.pem")
    root, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = _named("An authority of our own")
    made.authority.write_bytes(
        _pem(
            _certificate(authority, authority, root)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(root, hashes.SHA256())
        )
    )
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made.server.write_bytes(
        _pem(
            _certificate(_named("A server"), authority, key)
            .add_extension(address, critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(root.public_key()), critical=False
            )
            .sign(root, hashes.SHA256())
        )
    )
    made.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    return made


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
