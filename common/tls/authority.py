"""A certificate authority of the stack's own. It makes its key at the first start, and signs the certificates.

Nothing outside the stack trusts it, so it vouches for nothing else. Its key never leaves its folder. Certificates are
short-lived: a stolen key is worth nothing after `LEAF_DAYS`, and renewal is no rare event. A certificate says what it
is good for: that of a server lets nobody in as a client. Files are in PEM, keys in PKCS #8 and readable by their owner
only.

Reference: RFC 5280.
"""

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Literal, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.config.env import LOOPBACK
from common.errors import Fatal
from common.files import locked, write

AUTHORITY_DAYS: Final = 3_650
LEAF_DAYS: Final = 90
RENEW_DAYS: Final = 30
"""A certificate is renewed by the next start when it is valid for fewer days than this."""
CLOCK_SKEW: Final = timedelta(minutes=5)
"""Certificates are valid from this long before they are made: the clocks of two machines may differ."""
Purpose = Literal["server", "client", "both"]
_SERVER, _CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
_PURPOSES: Final = {"server": (_SERVER,), "client": (_CLIENT,), "both": (_SERVER, _CLIENT)}
CLIENT_SUFFIX: Final = ".client"
"""Of the names of a client's files: a service is a server too, by another certificate of the same name."""
_REMEDY: Final = "delete ca.pem and ca.key, and all certificates are made anew at the next start"


class Certificate(NamedTuple):
    """The files of a server or a client: its certificate, its key, and the authority by which it verifies others."""

    certificate: Path
    key: Path
    authority: Path


class Authority:
    """Signs certificates, and keeps them with its own in one folder."""

    def __init__(self, folder: Path) -> None:
        """Nothing is made until the first certificate is asked for."""
        self.folder = folder
        self.path = folder / "ca.pem"
        self._key_path = folder / "ca.key"

    def ensure(self, name: str, hosts: Sequence[str] = LOOPBACK, purpose: Purpose = "server") -> Certificate:
        """The certificate of a server, of a client, or of one that is both, made unless there is one for these hosts
        that is valid for `RENEW_DAYS`. `hosts` are names and IP addresses. Raises `Fatal` when a file is damaged."""
        with locked(self.folder):  # processes that start side by side make one authority
            certificate = self._named(name, purpose)
            if not self._is_good(certificate, hosts, purpose):
                self._sign(certificate, name, hosts, timedelta(days=LEAF_DAYS), purpose)
            return certificate

    def renew(
        self,
        name: str,
        hosts: Sequence[str] = LOOPBACK,
        valid: timedelta = timedelta(days=LEAF_DAYS),
        purpose: Purpose = "server",
    ) -> Certificate:
        """Sign a new certificate, with a new key, in the place of the old. A `valid` below zero makes one that has
        expired. Raises `Fatal` when a file is damaged."""
        with locked(self.folder):
            certificate = self._named(name, purpose)
            self._sign(certificate, name, hosts, valid, purpose)
            return certificate

    def clients(self) -> list[str]:
        """The names of the clients that have certificates."""
        suffix = f"{CLIENT_SUFFIX}.pem"
        return sorted(path.name.removesuffix(suffix) for path in self.folder.glob(f"*{suffix}"))

    def _named(self, name: str, purpose: Purpose) -> Certificate:
        files = f"{name}{CLIENT_SUFFIX}" if purpose == "client" else name
        return Certificate(self.folder / f"{files}.pem", self.folder / f"{files}.key", self.path)

    def _is_good(self, files: Certificate, hosts: Sequence[str], purpose: Purpose) -> bool:
        if not (files.certificate.exists() and files.key.exists() and self.path.exists()):
            return False
        leaf, authority = _read(files.certificate), _read(self.path)
        try:
            leaf.verify_directly_issued_by(authority)
            named = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            purposes = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        except Exception:  # signed by another authority, or without names: cryptography raises many kinds
            return False
        if set(purposes) != set(_PURPOSES[purpose]):  # earlier versions made each good for everything
            return False
        if not _fits(files.key, leaf):  # the process that renewed it was killed in between
            return False
        remaining = leaf.not_valid_after_utc - datetime.now(UTC)
        return remaining > timedelta(days=RENEW_DAYS) and set(named) == set(_general_names(hosts))

    def _sign(self, files: Certificate, name: str, hosts: Sequence[str], valid: timedelta, purpose: Purpose) -> None:
        authority, authority_key = self._load_or_make()
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _builder(name, valid)
            .issuer_name(authority.subject)
            .public_key(key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(_general_names(hosts)), critical=False)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(_PURPOSES[purpose]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(authority_key, hashes.SHA256())
        )
        # The certificate comes last: whoever sees it change finds its key.
        write(files.key, _pem(key), 0o600)
        write(files.certificate, certificate.public_bytes(serialization.Encoding.PEM).decode())

    def _load_or_make(self) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        if self.path.exists():
            try:
                key = serialization.load_pem_private_key(self._key_path.read_bytes(), None)
            except (OSError, ValueError) as error:
                raise Fatal(f"{self._key_path} is missing or damaged ({error}); {_REMEDY}") from None
            if not isinstance(key, ec.EllipticCurvePrivateKey):
                raise Fatal(f"{self._key_path} is not a key on a curve; {_REMEDY}")
            return _read(self.path), key
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name("Tandem authority")
        certificate = (
            _builder("Tandem authority", timedelta(days=AUTHORITY_DAYS))
            .issuer_name(subject)
            .public_key(key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        write(self._key_path, _pem(key), 0o600)
        write(self.path, certificate.public_bytes(serialization.Encoding.PEM).decode())
        return certificate, key


def _builder(name: str, valid: timedelta) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    begins = min(now, now + valid) - CLOCK_SKEW
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(now + valid)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = []
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    return names


def _read(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise Fatal(f"{path} is damaged ({error}); delete it, and it is made anew at the next start") from None


def _fits(path: Path, certificate: x509.Certificate) -> bool:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except (ValueError, TypeError):
        return False
    return key.public_key() == certificate.public_key()


def _pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
