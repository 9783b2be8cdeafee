"""`just failover` and `just rejoin`: a standby takes over from its primary, and the old primary becomes a standby."""

import signal
import time
from collections.abc import Mapping
from typing import Any

import psycopg

from common.audit import table as audit
from common.audit.entry import Act, Entry, user_author
from common.errors import describe
from dev.native.pairs import Pairs
from dev.native.supervised import SupervisedStack
from dev.servers import processes
from dev.servers.member import Member
from dev.stack import StackError

REJOIN_WITHIN_S = 300


def fail_over(stack: SupervisedStack, database: str) -> None:
    """Stop the primary for good, then promote the standby. A primary that answers hands over all that it has. After an
    interruption, call it again. Raises `StackError` and `StartError`."""
    primary, standby = Pairs(stack.settings).of(database)
    if standby.is_retired:
        if not primary.is_standby:
            raise StackError(
                f"{primary.name} has taken over already; 'just rejoin {database}' gives it a standby again"
            )
        standby, primary = primary, standby  # interrupted before the promotion
    elif (missing := standby.unready()) and not standby.answers:
        raise StackError(f"{standby.name} cannot take over: {missing}; nothing was changed")
    started_s, hands_over = time.monotonic(), False
    if not primary.is_retired:
        hands_over = _stop(stack, primary)
        primary.retire()
        how = "handed over all that it had" if hands_over else "did not answer and was killed"
        print(f"{primary.name} {how}; it stays stopped", flush=True)
    standby.promote()
    print(f"{standby.name} is the primary after {time.monotonic() - started_s:.1f} s", flush=True)
    detail = {"from": primary.name, "handed_over": hands_over}
    _record(standby, database, "failover", detail, f"{standby.name} is the primary")
    stack.configure_supervisor()
    if not hands_over and stack.settings.standbys != "1":
        print(f"what {standby.name} had not received is lost: if anything is, the service says so on /readyz, and")
        print(f"'just replay {database} --why …' brings back what was published")
    print(f"there is one copy of the database until 'just rejoin {database}'")


def _stop(stack: SupervisedStack, primary: Member) -> bool:
    """Stop the primary: gently if its standby follows it, so that it has everything. Returns whether it was so."""
    try:
        followed = primary.is_followed()
    except psycopg.Error:
        followed = False
    if not followed and (status := stack.supervisor.statuses().get(primary.name)) and status.pid:
        processes.send([status.pid], signal.SIGKILL)
    stack.supervisor.stop([primary.name])
    return followed


def rejoin(stack: SupervisedStack, database: str) -> None:
    """Make the retired cluster of a database a standby again, as a new copy of the primary. Raises `StackError` and
    `StartError`."""
    primary, standby = Pairs(stack.settings).of(database)
    if not standby.is_retired:
        raise StackError(f"{standby.name} is not retired; nothing was changed ('just ps' says how it stands)")
    if missing := primary.unready():
        raise StackError(f"{primary.name} cannot be copied: {missing}; nothing was changed")
    kept = standby.set_aside()
    print(f"what {standby.name} had is in {kept}; delete it when nobody wants to look into it", flush=True)
    stack.configure_supervisor()
    stack.start_programs([standby.name], REJOIN_WITHIN_S)
    _record(primary, database, "rejoin", {"kept": kept.name}, f"{standby.name} follows {primary.name}")
    primary.configure()
    print(f"{standby.name} follows {primary.name}")


def _record(primary: Member, database: str, act: Act, detail: Mapping[str, Any], result: str) -> None:
    """Add an entry to the audit. What cannot be recorded is done all the same: the service waits for it."""
    try:
        with primary.connect(database) as connection:
            audit.write(connection, user_author(), Entry(act, f"database {database}", detail, result))
    except psycopg.Error as error:
        print(f"{act} of {database} is not recorded in the audit: {describe(error)}", flush=True)
