"""Users and rights at a broker that asks for them: made, and reported where they differ from what they must be."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from common.config.env import Env
from common.errors import Fatal
from common.events import READERS
from common.kafka import access, grants
from common.secrets import kafka as passwords
from ops.log import Log


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
    """Give every user a new password: in its file first, from which the broker's can be set again; `publish` makes the
    copies of that. Running clients read it within a second. Raises `Fatal` without the folder of passwords."""
    if folder is None:
        raise Fatal("topics: KAFKA_PASSWORDS_DIR is not set: whoever runs the broker changes its passwords")
    for user in access.USERS:
        passwords.make_password(folder, user)
    publish()
    _make_users(log, folder, access.USERS)
    print(f"topics: new passwords of {', '.join(access.USERS)}")


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
