"""The proof again and again, as metrics: violations, the last proof's age.

Each round is the whole proof, not a sample: at a rest of `every_s` between two, it costs what a proof costs. A shop of
many millions of orders sets the rest to minutes.
"""

import time
from collections.abc import Iterable
from typing import Final
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from loguru import logger
from prometheus_client import CollectorRegistry, make_wsgi_app, start_http_server

from common.errors import Fatal, describe
from common.http.heads import Hosts, refusal
from common.http.problem import CONTENT_TYPE
from common.http.responses import request_id
from ops.observe.gauges import ProofGauges
from ops.verify.proof import prove
from ops.verify.report import PROVED, Report
from ops.verify.statements import Statement
from ops.verify.waiting import Settings

PORT: Final = 8085


def show(gauges: ProofGauges, report: Report, started_s: float) -> None:
    """`started_s` is when the proof began, by the monotonic clock."""
    for statement in Statement:
        gauges.take(
            int(statement),
            violations=report.violations[statement],
            unproven=report.unproven[statement],
            checked=report.checked[statement],
        )
    if report.exit_code == PROVED:
        gauges.set_age(time.monotonic() - started_s)


def guarded(app: WSGIApplication, hosts: Hosts) -> WSGIApplication:
    """`app`, for requests whose head every process of Tandem would take (`common.http.heads`)."""

    def respond(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        headers = [
            (name.removeprefix("HTTP_").replace("_", "-").lower().encode("latin-1"), str(value).encode("latin-1"))
            for name, value in environ.items()
            if name.startswith("HTTP_")
        ]
        refused = refusal(environ["REQUEST_METHOD"], environ["SERVER_PROTOCOL"].removeprefix("HTTP/"), headers, hosts)
        if refused is None:
            return app(environ, start_response)
        start_response(f"{refused.status} {refused.title}", [("content-type", CONTENT_TYPE.decode())])
        return [refused.body(request_id(None).decode())]

    return respond


def watch(settings: Settings, *, every_s: float, hosts: Hosts, port: int) -> None:
    """Prove for ever, and serve what was found as /metrics on the address and port. Whatever ends a proof, a full disk
    or a worker process that was killed, the next one may succeed."""
    registry = CollectorRegistry()
    gauges = ProofGauges(registry)
    try:
        server, _ = start_http_server(port, hosts.bound, registry)
    except OSError as error:
        raise Fatal(f"verify: cannot listen on {hosts.bound}:{port} (--port): {error.strerror or error}") from error
    server.set_app(guarded(make_wsgi_app(registry), hosts))
    while True:
        started = time.monotonic()
        try:
            report = prove(settings)
        except Exception as error:
            logger.opt(exception=error).error("the proof failed: {}", describe(error))
            report = Report(took_s=time.monotonic() - started)
            report.doubt_all(f"the proof failed: {describe(error)}")
        show(gauges, report, started)
        for offender in report.shown():
            logger.error("violation of {}: {}: {}", int(offender.statement), offender.subject, offender.problem)
        for statement, reasons in report.reasons.items():
            logger.warning("unproven {}: {}", int(statement), "; ".join(reasons))
        logger.info("proof", exit_code=report.exit_code, took_s=round(report.took_s, 1), records=report.records)
        time.sleep(every_s)
