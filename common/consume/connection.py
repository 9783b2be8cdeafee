"""A session's connection to its service's database. It is made again when it has ended, and must lead to a server that
has what the session stored."""

from collections.abc import Mapping
from typing import Final

import psycopg
from loguru import logger

from common import postgres
from common.config.process import Process
from common.consume import positions
from common.consume.positions import FailedOver
from common.errors import describe, is_session_stale
from common.kafka.broker import Partition
from common.postgres import Conn, connect, terminate_stale_blockers

LOCK_NOT_AVAILABLE: Final = "55P03"


class SessionConnection:
    """Connects when it is made. Belongs to one thread."""

    def __init__(self, process: Process, group: str) -> None:
        """Raises `psycopg.Error` when the database cannot be reached."""
        self._process = process
        self._log = logger.bind(group=group)
        self.current: Conn = self._connect()
        try:
            self._timeline = postgres.timeline(self.current)
        except BaseException:
            self.close()
            raise

    @property
    def is_promoted(self) -> bool:
        """Whether the server was a standby before."""
        return self._timeline > postgres.FIRST_TIMELINE

    def close(self) -> None:
        """Close it for good."""
        self.current.close()

    def recover(self, error: Exception, known: Mapping[Partition, int]) -> None:
        """After a failed batch: connect again if need be, or end a frozen instance's session that keeps rows locked.
        Raises `WentBack` when the new server lacks one of the `known` positions, and `FailedOver` when it is another
        one."""
        if is_session_stale(error):
            self.close()
        if self.current.closed:
            try:
                self.current = self._connect()
                self._check_not_failed_over(known)
            except psycopg.OperationalError as failure:
                self._log.warning("no connection: {}", describe(failure))
        elif isinstance(error, psycopg.Error) and error.sqlstate == LOCK_NOT_AVAILABLE:
            ended = terminate_stale_blockers(self.current)
            if ended:
                self._log.warning("terminated sessions that kept rows locked for too long", pids=ended)

    def _connect(self) -> Conn:
        return connect(self._process.database_url, self._process.instance)

    def _check_not_failed_over(self, known: Mapping[Partition, int]) -> None:
        timeline = postgres.timeline(self.current)
        if timeline == postgres.STANDBY:
            raise FailedOver("the database is a standby now")
        if timeline != self._timeline:
            positions.check_not_back(known, positions.read(self.current))
            raise FailedOver(f"the database is on timeline {timeline}, was on {self._timeline}: a standby took over")
