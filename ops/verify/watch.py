"""The proof again and again, as metrics: violations, the last proof's age. It serves the samples of `ops.observe` too.

Each round is the whole proof, not a sample: at a rest of `every_s` between two, it costs what a proof costs. A shop of
many millions of orders sets the rest to minutes.
"""

import time
from collections.abc import Iterable
from functools import partial
from typing import Final
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from loguru import logger
from prometheus_client import CollectorRegistry, Gauge, make_wsgi_app, start_http_server

from common.errors import Fatal, describe
from common.http.heads import Hosts, refusal
from common.http.problem import CONTENT_TYPE
from common.http.responses import request_id
from ops.observe.gauges import Gauges, sampling
from ops.verify.proof import prove
from ops.verify.report import PROVED, Report
from ops.verify.statements import Statement
from ops.verify.waiting import Settings

PORT: Final = 8085


class Metrics:
    """The result of the last proof. Gauges, since a repaired violation no longer counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        gauge, by_statement = partial(Gauge, registry=registry), ["statement"]
        self._violations = gauge("tandem_verify_violations", "Violations found by the last proof.", by_statement)
        self._unproven = gauge("tandem_verify_unproven", "What the last proof could not prove.", by_statement)
        self._checked = gauge("tandem_verify_checked", "What the last proof checked.", by_statement)
        self._took = gauge("tandem_verify_proof_seconds", "How long the last proof took.")
        age_text = "Time since all six statements were proved; since the start if never."
        age = gauge("tandem_verify_last_proof_age_seconds", age_text)
        self._proved_at = time.monotonic()
        age.set_function(lambda: time.monotonic() - self._proved_at)

    def take(self, report: Report, started: float) -> None:
        """`started` is when the proof began, by the monotonic clock: it proves nothing about later moments."""
        for statement in Statement:
            name = str(int(statement))
            self._violations.labels(name).set(report.violations[statement])
            self._unproven.labels(name).set(report.unproven[statement])
            self._checked.labels(name).set(report.checked[statement])
        self._took.set(report.took_s)
        if report.exit_code == PROVED:
            self._proved_at = started


def guarded(app: WSGIApplication, hosts: Hosts) -> WSGIApplication:
    """`app`, for requests whose head every process of Tandem would take (`common.http.heads`)."""

    def respond(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        named = ((b"host", "HTTP_HOST"), (b"origin", "HTTP_ORIGIN"))
        headers = [(name, environ[variable].encode("latin-1")) for name, variable in named if variable in environ]
        refused = refusal(environ["SERVER_PROTOCOL"].removeprefix("HTTP/"), headers, hosts)
        if refused is None:
            return app(environ, start_response)
        start_response(f"{refused.status} {refused.title}", [("content-type", CONTENT_TYPE.decode())])
        return [refused.body(request_id(None).decode())]

    return respond


def watch(settings: Settings, *, every_s: float, hosts: Hosts, port: int) -> None:
    """Prove for ever, and serve what was found as /metrics on the address and port. Whatever ends a proof, a full disk
    or a worker process that was killed, the next one may succeed."""
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    try:
        server, _ = start_http_server(port, hosts.bound, registry)
    except OSError as error:
        raise Fatal(f"verify: cannot listen on {hosts.bound}:{port} (--port): {error.strerror or error}") from error
    server.set_app(guarded(make_wsgi_app(registry), hosts))
    with sampling(Gauges(registry), settings.servers, settings.urls):
        while True:
            started = time.monotonic()
            try:
                report = prove(settings)
            except Exception as error:
                logger.opt(exception=error).error("the proof failed: {}", describe(error))
                report = Report(took_s=time.monotonic() - started)
                report.doubt_all(f"the proof failed: {describe(error)}")
            metrics.take(report, started)
            for offender in report.shown():
                logger.error("violation of {}: {}: {}", int(offender.statement), offender.subject, offender.problem)
            for statement, reasons in report.reasons.items():
                logger.warning("unproven {}: {}", int(statement), "; ".join(reasons))
            logger.info("proof", exit_code=report.exit_code, took_s=round(report.took_s, 1), records=report.records)
            time.sleep(every_s)
