"""An installation made by the migrations of 771bd5c, when each service had tables of its own for positions and parking,
ends in the same schema as a new one. Nothing that ran runs again."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from common.config.env import Env
from common.errors import Fatal
from ops import migrate, tool
from tests.stack import Stack

OLD = Path(__file__).with_name("migrations_771bd5c")
_SCHEMA = """
    SELECT concat_ws(' ', 'relation', relname, relkind, reloptions, relowner::regrole,
      ARRAY(SELECT privilege::text FROM unnest(relacl) AS privilege ORDER BY 1))
    FROM pg_class WHERE relnamespace = 'public'::regnamespace
    UNION ALL
    SELECT concat_ws(' ', 'column', attrelid::regclass, attnum, attname, format_type(atttypid, atttypmod), attnotnull,
      attidentity, attgenerated, attcollation::regcollation, pg_get_expr(adbin, adrelid))
    FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid AND relnamespace = 'public'::regnamespace
    LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
    WHERE attnum > 0
    UNION ALL
    SELECT concat_ws(' ', 'constraint', conrelid::regclass, conname, pg_get_constraintdef(oid))
    FROM pg_constraint WHERE connamespace = 'public'::regnamespace
    UNION ALL
    SELECT concat_ws(' ', 'index', pg_get_indexdef(indexrelid))
    FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid AND relnamespace = 'public'::regnamespace
    UNION ALL
    SELECT concat_ws(' ', 'migration', version) FROM schema_migrations
    ORDER BY 1
"""


@pytest.fixture(params=tool.GROUP_OF)
def service(request: pytest.FixtureRequest, stack: Stack) -> Iterator[str]:
    """A service, with two more databases for the time of the test: `old_<service>` and `new_<service>`."""
    name: str = request.param
    try:
        yield name
    finally:
        with stack.postgres.connect() as admin:
            for database in (f"old_{name}", f"new_{name}"):
                admin.execute(f"DROP DATABASE IF EXISTS {database}")


def settings(stack: Stack, service: str, database: str) -> Env:
    """The settings of `ops.migrate`: the stack's roles, and this database instead of the service's."""
    return Env("test", {name: url.replace(f"/{service}?", f"/{database}?") for name, url in stack.variables.items()})


def make_as_771bd5c(stack: Stack, service: str, database: str) -> None:
    """Make the database with its rights and run the migrations of that commit."""
    with stack.postgres.connect() as admin:
        migrate.ensure_database(admin, database)
    with stack.postgres.connect(database) as admin:
        migrate.execute(admin, migrate._GRANTS, database=database, service=service, auditor=migrate.AUDITOR)
        migrate.run_migrations(stack.postgres.url(database), OLD / service)


def new_migrations(service: str) -> set[str]:
    """Those whose versions that commit did not have."""
    ran = {path.name[:14] for path in (OLD / service).iterdir()}
    files = [*(migrate.ROOT / "common/migrations").iterdir(), *(migrate.ROOT / service / "migrations").iterdir()]
    return {path.name for path in files if path.name[:14] not in ran}


def schema(connection: psycopg.Connection) -> list[str]:
    """Relations with their rights, columns, constraints, indexes, and the versions that ran; a line each."""
    return [line for (line,) in connection.execute(_SCHEMA)]


def test_an_upgraded_database_has_the_schema_of_a_new_one_and_keeps_its_rows(
    stack: Stack, service: str, capsys: pytest.CaptureFixture[str]
) -> None:
    migrate.migrate(service, settings(stack, service, f"new_{service}"))
    make_as_771bd5c(stack, service, f"old_{service}")
    with stack.postgres.connect(f"old_{service}") as old, stack.postgres.connect(f"new_{service}") as new:
        assert schema(old) != schema(new)
        position = ("orders", 3, "id", 17)
        insert = "INSERT INTO positions (topic, partition, topic_id, next_offset) VALUES (%s, %s, %s, %s)"
        old.execute(insert, position)
        capsys.readouterr()

        migrate.migrate(service, settings(stack, service, f"old_{service}"))

        applied = [line.split()[3] for line in capsys.readouterr().out.splitlines() if "Applied:" in line]
        assert applied == sorted(new_migrations(service))
        assert schema(old) == schema(new)
        assert old.execute("SELECT topic, partition, topic_id, next_offset FROM positions").fetchall() == [position]
        before = schema(new)

        migrate.migrate(service, settings(stack, service, f"new_{service}"))

        assert schema(new) == before
        assert "Applied:" not in capsys.readouterr().out


def test_runs_at_once_take_turns(stack: Stack, service: str) -> None:
    """As when two instances of a deployment both begin with the migrations."""
    env = settings(stack, service, f"new_{service}")
    with ThreadPoolExecutor(4) as pool:
        for run in [pool.submit(migrate.migrate, service, env) for _ in range(4)]:
            run.result()


def test_a_run_does_not_wait_for_another_one_for_ever(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "TURN_WITHIN_S", 1)
    with stack.postgres.connect() as other:
        migrate.take_turn(other)
        with pytest.raises(Fatal, match="another run has been at this server for 1 s"):
            migrate.migrate("payment", settings(stack, "payment", "new_payment"))


def test_a_migration_that_has_to_wait_for_a_lock_gives_up_and_runs_later(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it waits, everything else on the table waits behind it."""
    monkeypatch.setattr(migrate, "LOCK_TIMEOUT_MS", 100)
    (tmp_path / "20300101000000_lock.sql").write_text("-- migrate:up\nLOCK TABLE ledger;\n-- migrate:down\n")
    url = stack.variables["PAYMENT_ADMIN_URL"].replace("/postgres?", "/payment?")
    with stack.postgres.connect("payment") as reader:
        with reader.transaction():
            reader.execute("SELECT FROM ledger LIMIT 1")
            with pytest.raises(Fatal, match=r"(?s)lock timeout.*another session .* has a transaction open"):
                migrate.run_migrations(url, tmp_path)
        migrate.run_migrations(url, tmp_path)
        reader.execute("DELETE FROM schema_migrations WHERE version = '20300101000000'")


def test_a_database_whose_texts_were_sorted_by_another_collation_is_refused(stack: Stack) -> None:
    with stack.postgres.connect() as owner:
        try:
            migrate.ensure_database(owner, "sorted")
            migrate.ensure_database(owner, "sorted")
            owner.execute("UPDATE pg_database SET datcollversion = '0' WHERE datname = 'sorted'")
            with pytest.raises(Fatal, match=r"version 0 of its collation, the server has 1: .*REINDEX DATABASE sorted"):
                migrate.ensure_database(owner, "sorted")
        finally:
            owner.execute("DROP DATABASE IF EXISTS sorted")
