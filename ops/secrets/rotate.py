"""New passwords for the roles of the databases, while everything runs.

While a password is changed, the old and the new one are both in files, and each client tries both
(`common.secrets.change`). Connections that exist go on, with the rights that they have. PostgreSQL also reads its
certificate again.

The settings of `ops.migrate` say which servers, roles and files there are. A second run makes new passwords again.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict

from common.config.env import Env
from common.errors import Fatal
from common.secrets.change import change, pending_file
from common.secrets.passwords import SUFFIX, new_line, password_in
from ops.migrate import connect, ensure_role

_ADMIN = "_ADMIN_URL"

Server = tuple[str, str]
"""Host and port."""


def nothing() -> None:
    """For secrets of which there are no copies."""


def urls_by_server(env: Env, environ: Mapping[str, str] = os.environ) -> dict[Server, list[str]]:
    """The connection URLs of each server: first its superuser's, then those of the roles."""
    urls: dict[Server, list[str]] = {}
    for name in sorted(n.removesuffix(_ADMIN) for n in environ if n.endswith(_ADMIN)):
        admin = env.database_url(f"{name}{_ADMIN}")
        known = urls.setdefault(_server(admin), [admin])
        known += [env.database_url(f"{name}_{kind}_URL") for kind in ("DATABASE", "AUDITOR")]
    return urls


def rotate(urls: Mapping[Server, Sequence[str]], publish: Callable[[], None] = nothing) -> list[str]:
    """Give every role a new password, on all servers and in its file; `publish` makes the copies of that. Returns the
    roles. Raises `Fatal`."""
    servers: dict[tuple[str, Path], set[Server]] = {}
    for server, known in urls.items():
        for url in known:
            servers.setdefault(_role_and_file(url), set()).add(server)
    with ExitStack() as stack:
        admins = {server: stack.enter_context(connect(known[0])) for server, known in urls.items()}

        def alter_roles() -> None:
            with ExitStack() as transactions:
                for admin in admins.values():
                    transactions.enter_context(admin.transaction())
                for (role, file), on in sorted(servers.items()):
                    password = password_in(pending_file(file), role)
                    for server in sorted(on):
                        ensure_role(admins[server], role, password)

        change({file: new_line(role) for role, file in servers}, alter_roles, publish)
        for admin in admins.values():
            admin.execute("SELECT pg_reload_conf()")
    return sorted({role for role, _ in servers})


def _server(url: str) -> Server:
    parameters = conninfo_to_dict(url)
    return str(parameters.get("host")), str(parameters.get("port", "5432"))


def _role_and_file(url: str) -> tuple[str, Path]:
    parameters = conninfo_to_dict(url)
    role, file = str(parameters.get("user")), Path(str(parameters.get("passfile", "")))
    if file.name != f"{role}{SUFFIX}":
        raise Fatal(f"secrets: the password of {role!r} is not in a file {role}{SUFFIX}, but in {str(file)!r}")
    return role, file
