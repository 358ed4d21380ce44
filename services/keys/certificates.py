"""The TLS certificates: an authority of our own, and the server's certificate it vouches for.

P-256 and SHA-256, with the extensions that Python's strict verification asks for (RFC 5280).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shared.errors import ConfigurationError

CA_DAYS = 3650
SERVER_DAYS = 730
ALWAYS = ("localhost", "127.0.0.1", "::1")
"""Names every server's certificate has."""
_SKEW = timedelta(hours=1)
"""A certificate is valid from this long before it was made: clocks differ."""


def new_authority(now: datetime) -> tuple[bytes, bytes]:
    """A certificate authority for one installation.

    Args:
        now: UTC.

    Returns:
        Certificate and private key, PEM.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "worldloop CA")])
    usage = {"key_cert_sign": True, "crl_sign": True}
    certificate = (
        _builder(name, name, key.public_key(), now, CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(**usage), critical=True)
        .sign(key, hashes.SHA256())
    )
    return _pem(certificate), _key_pem(key)


def new_server(
    authority: bytes, authority_key: bytes, hosts: Sequence[str], now: datetime
) -> tuple[bytes, bytes]:
    """A server's certificate.

    Args:
        authority: Certificate of the authority, PEM.
        authority_key: Its private key, PEM.
        hosts: Names and addresses clients call it by, besides `ALWAYS`.
        now: UTC.

    Returns:
        Certificate and private key, PEM.

    Raises:
        ValueError: The authority is unreadable, or a host is neither a DNS name nor an address.
    """
    ca = x509.load_pem_x509_certificate(authority)
    ca_key = serialization.load_pem_private_key(authority_key, password=None)
    if not isinstance(ca_key, ec.EllipticCurvePrivateKey):
        raise ValueError("the authority's key is no EC key")  # noqa: TRY004 - what is wrong is the file
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "worldloop nats-server")])
    names = [_general_name(host) for host in dict.fromkeys((*ALWAYS, *hosts))]
    certificate = (
        _builder(name, ca.subject, key.public_key(), now, SERVER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(  # also as a client: that is what one server of a cluster is to another
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
            critical=False,
        )
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )
    return _pem(certificate), _key_pem(key)


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a certificate says."""

    hosts: tuple[str, ...]
    """Names and addresses it is for; an authority has none."""
    until: datetime
    """When it ends, UTC."""

    @classmethod
    def read(cls, path: Path) -> Certificate:
        """Read a PEM file.

        Raises:
            ConfigurationError: It cannot be read, or is no certificate.
        """
        try:
            found = x509.load_pem_x509_certificate(path.read_bytes())
            extensions = [each.value for each in found.extensions]
            until = found.not_valid_after_utc
        except (OSError, ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
            cure = "Make all anew with `worldloop keys init` in an empty directory"
            raise ConfigurationError(str(path), "", f"is no certificate ({error})", cure) from error
        names = [each for each in extensions if isinstance(each, x509.SubjectAlternativeName)]
        return cls(tuple(str(name.value) for each in names for name in each), until)


def known_as(host: str) -> str:
    """How a certificate says a name or address."""
    return str(_general_name(host).value)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host.lower())


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
