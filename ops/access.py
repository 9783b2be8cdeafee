"""Users and rights at a broker that asks for them: made, and reported where they differ from what they must be."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from common.backoff import delays_s
from common.config.env import Env
from common.config.kafka import Brokers
from common.errors import Fatal, Transient
from common.events import READERS
from common.kafka import access, broker, grants, wire
from common.secrets import kafka as passwords
from common.secrets.change import change, pending_file
from ops.log import Log

TAKEN_WITHIN_S: Final = 60.0
"""A broker that ended is forgotten in a few seconds; one that runs has read what was changed long before."""


def is_asked_for(log: Log) -> bool:
    """Whether the broker knows its clients: otherwise it has no rights to give."""
    return log.brokers.protocol != "PLAINTEXT"


def passwords_folder(env: Env) -> Path | None:
    """The folder with the passwords of all users, for those who make them."""
    return Path(env.text("KAFKA_PASSWORDS_DIR", printable=False)) if env.is_set("KAFKA_PASSWORDS_DIR") else None


def create(log: Log, folder: Path | None) -> None:
    """Make the users, with their passwords from the folder, and set their rights. Without a folder, whoever runs the
    broker makes the users."""
    if folder is not None:
        _make_users(log, folder, access.USERS)
        _withdraw_passwords(log, folder)
    drift = grants.fetch_drift(log.admin)
    grants.grant(log.admin, [d.right for d in drift if d.missing])
    grants.revoke(log.admin, [d.right for d in drift if not d.missing and d.right.user in access.USERS])
    for mended in drift:
        if mended.right.user in access.USERS:
            print(f"topics: {mended.right} {'granted' if mended.missing else 'taken away'}")
        else:
            print(f"topics: {mended}")


def rotate(log: Log, folder: Path | None, publish: Callable[[], None] = lambda: None) -> None:
    """Give every user a new password while clients log in, each of which knows the old and the new one meanwhile
    (`common.secrets.change`); `publish` makes the copies of the files. Raises `Fatal` without the folder of passwords,
    and when a broker does not take the new ones within `TAKEN_WITHIN_S`: then both are known until it is repeated."""
    if folder is None:
        raise Fatal("topics: KAFKA_PASSWORDS_DIR is not set: whoever runs the broker changes its passwords")
    files = {user: passwords.password_file(folder, user) for user in access.USERS}

    def set_on_brokers() -> None:
        pending = {user: pending_file(file) for user, file in files.items()}
        grants.set_passwords(log.admin, {user: file.read_text().strip() for user, file in pending.items()})
        _await_logins(log, pending)

    change({file: passwords.new_line() for file in files.values()}, set_on_brokers, publish)
    print(f"topics: new passwords of {', '.join(access.USERS)}")


def _await_logins(log: Log, files: Mapping[str, Path]) -> None:
    """Wait until every broker takes each user with the password in this file: the controller answers before the brokers
    have read from its log what it has changed."""
    deadline = time.monotonic() + TAKEN_WITHIN_S
    for delay_s in delays_s(cap_s=1.0):
        try:
            for host, port in broker.user_listeners(log.admin):
                for user, file in files.items():
                    login = Brokers(log.brokers.servers, "SASL_SSL", log.brokers.ca_file, user, file)
                    wire.request(login, host, port, wire.API_VERSIONS, 0, b"")
            return
        except Transient as error:
            if time.monotonic() > deadline:
                raise Fatal(f"topics: {error}, {TAKEN_WITHIN_S:.0f} s after its change; repeat the command") from error
            time.sleep(delay_s)


def allow(log: Log, service: str, folder: Path | None) -> None:
    """Let a service beside Tandem read what happens to orders. Raises `Fatal` for a name that `check_name` refuses."""
    check_name(service)
    if folder is not None:
        _make_users(log, folder, [service])
    grants.grant(log.admin, access.rights_beside(service))
    print(f"topics: {service} may read {', '.join(READERS)}; its own topics begin with '{service}.'")


def check_name(service: str) -> None:
    """Raises `Fatal` for one of Tandem's own users, and for a name with which Tandem's own groups begin."""
    if service in (*access.USERS, access.ADMIN, access.BROKER):
        raise Fatal(f"topics: {service!r} is a user of Tandem's own; a service beside it needs another name")
    if wrong := next(filter(access.interferes, access.rights_beside(service)), None):
        raise Fatal(f"topics: {wrong} would be a right on Tandem's own; a service beside it needs another name")


def _make_users(log: Log, folder: Path, users: Sequence[str]) -> None:
    wanted = {user: passwords.ensure_password(folder, user) for user in users}
    for user in grants.set_passwords(log.admin, wanted):
        print(f"topics: user {user} has the password in {passwords.password_file(folder, user).name}")


def _withdraw_passwords(log: Log, folder: Path) -> None:
    """Of those who show certificates. Earlier versions gave them passwords, which nothing would change."""
    for user in grants.withdraw_passwords(log.admin, (access.ADMIN, access.BROKER)):
        print(f"topics: {user} shows a certificate; its password is good for nothing any more")
    for user in (access.ADMIN, access.BROKER):
        with suppress(OSError):  # in Compose the folder is read-only, which is said of missing files too
            passwords.password_file(folder, user).unlink()
