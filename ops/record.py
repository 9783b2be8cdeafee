"""Records in the audit what belongs to no service: who made or revoked what lets somebody in, and who changed topics.
The order database has these entries."""

from collections.abc import Mapping
from typing import Any

import psycopg

from common.audit import table as audit
from common.audit.entry import Act, Entry, user_author
from common.config.env import Env
from common.errors import Fatal
from common.postgres import connect


def record(env: Env, act: Act, target: str, detail: Mapping[str, Any], result: str) -> None:
    """Add an entry. Raises `Fatal` when it cannot be written.

    What lets somebody in is recorded before it is shown, and what cannot be undone before it is done: an entry without
    it does no harm. What shuts somebody out is recorded afterwards, and does not wait for a database.
    """
    try:
        with connect(env.database_url("ORDER_DATABASE_URL"), "record") as connection:
            audit.write(connection, user_author(), Entry(act, target, detail, result))
    except psycopg.Error as error:
        raise Fatal(f"{act} {target} is not recorded in the audit: {error}".strip()) from error
