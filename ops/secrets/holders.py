"""The secrets of the containers in Compose, and who gets which.

Each holder has a volume of its own, which nobody else mounts: a service sees the password of its own role, and no
other's. Everything is made in one more volume, and copied from there.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from confluent_kafka.admin import AdminClient

from common.config.env import LOOPBACK
from common.files import write
from common.kafka import access, broker
from common.secrets import kafka
from common.secrets.change import pending_file
from common.secrets.passwords import new_password, password_file, read_password, stored_roles, write_password
from common.tls.authority import CLIENT_SUFFIX, Authority, Purpose
from ops import tool

SUPERUSER: Final = "postgres"
AUDITOR: Final = "auditor"
SERVICES: Final = tuple(tool.GROUP_OF)
ROLES: Final = (SUPERUSER, AUDITOR, *SERVICES)


USER: Final = 10001
"""That of our image, by number."""
MADE: Final = "made"
SHARED_HOST: Final = "tandem"
"""A name in every certificate, for those who find the instances of several services by their addresses."""


class Holder(NamedTuple):
    """Who gets secrets: its number as a user, its roles in the databases, its certificates as a server, its users at
    Kafka by password, and those by certificate."""

    user: int
    roles: tuple[str, ...] = ()
    certificates: tuple[str, ...] = ()
    kafka_users: tuple[str, ...] = ()
    clients: tuple[str, ...] = ()


HOLDERS: Final = {
    "order-api": Holder(USER, ("order",), ("order-api",), ("order-api",)),
    "order-saga": Holder(USER, ("order",), ("order-saga",), ("order-saga",)),
    "payment": Holder(USER, ("payment",), ("payment",), ("payment",)),
    "inventory": Holder(USER, ("inventory",), ("inventory",), ("inventory",)),
    "console": Holder(USER, (AUDITOR, *SERVICES), ("console",), (access.CONSOLE,)),
    "setup": Holder(USER, ROLES, (), access.USERS, (access.ADMIN,)),
    "postgres": Holder(999, (SUPERUSER,), ("postgres",)),  # the number in its image, as below
    "kafka": Holder(1000, (), (access.BROKER,)),
    "gateway": Holder(0, (), ("gateway",)),
    "client": Holder(0),  # knows whom to trust
    "auditor": Holder(USER, clients=(access.AUDITOR,)),  # what watches Kafka
    "warm-up": Holder(USER, (), (), (access.WARM_UP,)),
}
KEY_STORE: Final = f"/secrets/{access.BROKER}.both.pem"
LISTENERS: Final = ("USERS", "HOST", "CERTIFICATES")
"""Where the broker reads its certificate, and the listeners that show it to others (dev/compose-secure.yml)."""
HOSTS: Final = {
    "postgres": tuple(f"{service}-db" for service in SERVICES),
    access.BROKER: ("kafka", "kafka-2", "kafka-3"),
}
"""The names of a server in the network, where they are not that of its certificate."""


HBA: Final = """\
# Read with dev/compose-secure.yml. Who may enter the container may be any role; all others encrypt.
local   all all     trust
hostssl all all all scram-sha-256
"""


def make(folder: Path) -> None:
    """Make what is missing, and renew certificates that expire soon. Raises `OSError` and `Fatal`."""
    made = folder / MADE
    for role in ROLES:
        if role not in stored_roles(made):
            write_password(made, role, new_password())
    for user in access.USERS:
        kafka.ensure_password(made, user)
    for name, purpose in _certificates():
        _authority(folder).ensure(name, _hosts(name), purpose=purpose)
    publish(folder)


def renew_certificates(folder: Path) -> None:
    """Make new certificates for all holders, but keep the authority. Raises `OSError` and `Fatal`."""
    for name, purpose in _certificates():
        _authority(folder).renew(name, _hosts(name), purpose=purpose)
    publish(folder)


def show_certificate(admin: AdminClient) -> None:
    """Let each broker show the certificate that it was given. Raises `Transient` and `Fatal`."""
    with broker.query("the brokers cannot be listed"):
        numbers = sorted(admin.list_topics(timeout=broker.REQUEST_TIMEOUT_S).brokers)
    for number in numbers:
        broker.read_key_store(admin, str(number), KEY_STORE, LISTENERS)


def publish(folder: Path) -> None:
    """Give each holder its copies. Each file is replaced as a whole. Raises `OSError` and `Fatal`."""
    for name, holder in HOLDERS.items():
        own = folder / name
        own.mkdir(exist_ok=True)
        authority = _authority(folder)
        _give(holder, own / "ca.pem", authority.path.read_text())
        passwords = [password_file(folder / MADE, role) for role in holder.roles]
        for password in (*passwords, *(kafka.password_file(folder / MADE, user) for user in holder.kafka_users)):
            copy = own / password.name
            _give(holder, copy, password.read_text())
            if pending_file(password).exists():
                _give(holder, pending_file(copy), pending_file(password).read_text())
            else:
                pending_file(copy).unlink(missing_ok=True)
        for certificate in (*holder.certificates, *(f"{client}{CLIENT_SUFFIX}" for client in holder.clients)):
            texts = [(authority.folder / f"{certificate}{suffix}").read_text() for suffix in (".key", ".pem")]
            _give(holder, own / f"{certificate}.key", texts[0])
            _give(holder, own / f"{certificate}.pem", texts[1])
            _give(holder, own / f"{certificate}.both.pem", texts[1] + texts[0])  # HAProxy reads one file
        if "postgres" in holder.certificates:
            _give(holder, own / "hba.conf", HBA)
        if SUPERUSER in holder.roles:  # the image of PostgreSQL reads the first password without the rest of the line
            _give(holder, own / "superuser", read_password(folder / MADE, SUPERUSER))
        own.chmod(0o700)
        os.chown(own, holder.user, holder.user)


def _authority(folder: Path) -> Authority:
    return Authority(folder / MADE)


def _certificates() -> Iterator[tuple[str, Purpose]]:
    for holder in HOLDERS.values():
        for name in holder.certificates:
            yield name, "both" if name == access.BROKER else "server"
        for name in holder.clients:
            yield name, "client"


def _hosts(name: str) -> tuple[str, ...]:
    return (*HOSTS.get(name, (name,)), SHARED_HOST, *LOOPBACK)


def _give(holder: Holder, path: Path, text: str) -> None:
    if path.exists() and path.read_text() == text and path.stat().st_uid == holder.user:
        return
    new = path.with_name(f"{path.name}.new")  # it has its owner before it has its name
    write(new, text, 0o600)
    os.chown(new, holder.user, holder.user)
    new.replace(path)
