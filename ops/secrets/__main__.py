"""`python -m ops.secrets rotate`: new passwords for all roles and Kafka users while everything runs.

`python -m ops.secrets make FOLDER` makes those of the containers in Compose. A second run changes nothing.
"""

import argparse
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from common.audit import table
from common.audit.entry import Entry, user_author
from common.config.env import Env
from common.config.kafka import brokers
from common.errors import Fatal
from common.postgres import connect
from ops import access, tool
from ops.log import Log
from ops.secrets import holders
from ops.secrets.rotate import nothing, rotate, urls_by_server


def parser() -> argparse.ArgumentParser:
    described = argparse.ArgumentParser(prog="secrets", description=__doc__.splitlines()[0])
    commands = described.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make", help="make the secrets of the containers in Compose that are missing")
    make.add_argument("folder", type=Path)
    rotating = commands.add_parser("rotate", help="make new ones while everything runs")
    rotating.add_argument("--folder", type=Path, help="that of the containers in Compose: new certificates too")
    return described


def main(arguments: Sequence[str]) -> int:
    chosen = parser().parse_args(arguments)
    if chosen.command == "make":
        os.umask(0o077)
        holders.make(chosen.folder)
        print("secrets: passwords and certificates are there")
        return 0
    env = Env("secrets")
    urls = urls_by_server(env)
    if not urls:
        raise Fatal("secrets: no setting ends in _ADMIN_URL, so there is no server; 'just secrets rotate' sets them")
    publish = nothing
    if chosen.folder is not None:
        publish = partial(holders.publish, chosen.folder)
        holders.renew_certificates(chosen.folder)
    roles = rotate(urls, publish)
    if (users := access.passwords_folder(env)) is not None:
        log = Log(brokers(env), "secrets")
        access.rotate(log, users, publish)
        if chosen.folder is not None:
            holders.show_certificate(log.admin)
    author, entry = user_author(), Entry("rotate", "secrets", {"roles": roles}, "new passwords")
    with connect(env.database_url("ORDER_DATABASE_URL"), "secrets") as connection, connection.transaction():
        table.write(connection, author, entry)
    print(f"secrets: new passwords of {', '.join(roles)}")
    return 0


if __name__ == "__main__":
    tool.run(main)
