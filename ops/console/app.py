"""The console's HTTP: its page, its stream, and what the page asks for."""

import asyncio
import http.client
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from confluent_kafka import KafkaException
from prometheus_client import REGISTRY
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from common.audit.entry import user
from common.config.env import Env
from common.errors import Transient, describe
from common.events import now
from common.http import problem, server
from common.http.app import application
from common.http.contract.files import HEADERS, Files
from common.http.contract.operation import Operation
from common.http.contract.service import Endpoint
from common.http.limits.turns import Turns
from common.http.problem import ProblemError
from common.http.requests import read_body
from common.http.responses import json_response
from common.http.validation import decode_body, decode_query
from common.tls.client import connection as connect
from ops.console import drill, orders
from ops.console import operations as api
from ops.console.drill import Drill, Load
from ops.console.hub import Hub
from ops.console.jobs import Job, Jobs
from ops.console.parked import acts, listing
from ops.console.parked.acts import Act
from ops.console.parked.listing import Listing
from ops.console.poller import Poller
from ops.console.proof.rounds import StandingProof
from ops.console.session.cookie import Cookie
from ops.console.session.logins import Logins, Nothing
from ops.console.settings import Address, Settings
from ops.console.sources import SERVICES, Instances, Targets
from ops.databases import databases
from ops.log import Log
from ops.observe.certificates import CertificateSampling
from ops.observe.gauges import Gauges, ProofGauges
from ops.observe.samples import BrokerSampler
from ops.verify.statements import TEXTS

PASS_ON_S: Final = 35.0
"""More than the order api takes for any answer."""
PASSED_ON: Final = ("authorization", "idempotency-key")
"""The headers of an order that the order api needs."""
FILES: Final = Files(
    Path(__file__).parent / "static",
    {
        **HEADERS,
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
    },
)

T = TypeVar("T")
_act: Final = msgspec.json.Decoder(Act)
_drill: Final = msgspec.json.Decoder(Drill)
_load: Final = msgspec.json.Decoder(Load)


_nothing: Final = msgspec.json.Decoder(Nothing)


async def unblocked(work: Callable[..., T], *arguments: Any) -> T:
    """What `work` returns, in a thread. What cannot be read becomes a `ProblemError` 503."""
    try:
        return await run_in_threadpool(work, *arguments)
    except (Transient, KafkaException) as error:
        raise ProblemError(problem.unavailable(describe(error))) from error


async def serve(settings: Settings) -> None:
    """Run the console until it is told to stop."""
    process = settings.process
    logins = Logins(Cookie(process.port), f"{user()} (console)")
    env = Env("console")
    reading = databases(settings.auditor_urls, "console")
    asking = databases(settings.auditor_urls, "console-http")

    def first() -> Iterator[tuple[str, object]]:
        poller.wake()
        yield "hello", hello(settings)
        yield "history", poller.history()

    hub = Hub(first, lambda: frame.stopping, lambda scope: logins.is_admitted(frame.auth, scope))
    jobs = Jobs(
        lambda job: hub.publish("job", job.shown(), key=f"job {job.id}"), lambda job: hub.forget(f"job {job.id}")
    )
    instances = Instances(Targets(settings.targets), settings.process.tls.authority)
    poller = Poller(BrokerSampler(process.brokers), reading, instances, hub, Gauges(REGISTRY))
    proof = StandingProof(
        process.brokers,
        databases(settings.auditor_urls, "console-proof"),
        settings.auditor_urls,
        settings.deadline_s,
        lambda document: hub.publish("proof", document),
        ProofGauges(REGISTRY),
    )
    log = Log(process.brokers, "console-events")
    turns = Turns()  # at the threads in which databases and broker are read

    async def search(request: Request) -> Response:
        return json_response(await unblocked(orders.search, asking, decode_query(request.query_params, orders.Search)))

    async def place(request: Request) -> Response:
        body = await read_body(request)
        passed = {name: value for name in PASSED_ON if (value := request.headers.get(name))}
        return await unblocked(pass_on, settings.order_api, settings.process.tls.authority, body, passed)

    async def story(request: Request) -> Response:
        told, _ = await unblocked(orders.story, asking, request.path_params["order_id"])
        return json_response(told)

    async def order_events(request: Request) -> Response:
        told, records = await unblocked(orders.story, asking, request.path_params["order_id"], log)
        return json_response({"story": told, "events": [orders.shown(record) for record in records]})

    async def parked_events(request: Request) -> Response:
        return json_response(await unblocked(listing.page, asking, decode_query(request.query_params, Listing)))

    async def parked_event(request: Request) -> Response:
        named = request.path_params["service"], request.path_params["record"]
        return json_response(await unblocked(listing.one, asking, *named))

    async def act(request: Request) -> Response:
        wanted = decode_body(await read_body(request), _act)
        names = await unblocked(acts.named_by, asking, wanted)
        author = logins.author(request)
        if wanted.dry_run:
            return json_response(await unblocked(acts.dry_run, asking, env, wanted, names, author))
        return accepted(acts.start(jobs, env, wanted, names, author))

    async def verify(request: Request) -> Response:
        decode_body(await read_body(request), _nothing)
        return accepted(proof.prove(jobs))

    async def all_jobs(_: Request) -> Response:
        return json_response({"jobs": [job.shown() for job in jobs.all()]})

    def named_job(request: Request) -> Job:
        job = jobs.find(request.path_params["job_id"])
        if job is None:
            raise ProblemError(problem.not_found("job", request.path_params["job_id"][:64]))
        return job

    async def one_job(request: Request) -> Response:
        return json_response(named_job(request).with_results())

    async def stop_job(request: Request) -> Response:
        decode_body(await read_body(request), _nothing)
        job = named_job(request)
        jobs.stop(job)
        return accepted(job)

    async def break_it(request: Request) -> Response:
        body = await read_body(request)
        drill.check_allowed(settings)
        actor = logins.author(request).principal
        return accepted(drill.start(jobs, decode_body(body, _drill), drill.servers(process.brokers), actor))

    async def load(request: Request) -> Response:
        body = await read_body(request)
        drill.check_allowed(settings)
        shape, asks = decode_body(body, _load).shape, request.headers.get("authorization", "")
        authority = settings.process.tls.authority
        return accepted(drill.start_load(jobs, shape, settings.order_api, authority, asks))

    async def page(request: Request) -> Response:
        return FILES.answer(request.path_params.get("path", "index.html"))

    endpoints: dict[Operation, Endpoint] = {
        api.INDEX: page,
        api.FILE: page,
        api.STREAM: hub,
        api.WHO: logins.shown,
        api.LOG_IN: logins.log_in,
        api.LOG_OUT: logins.log_out,
        api.SEARCH: turns.limited(search),
        api.PLACE: turns.limited(place),
        api.STORY: turns.limited(story),
        api.EVENTS: turns.limited(order_events),
        api.PARKED: turns.limited(parked_events),
        api.ACT: turns.limited(act),
        api.PARKED_EVENT: turns.limited(parked_event),
        api.VERIFY: verify,
        api.LIST_JOBS: all_jobs,
        api.JOB: one_job,
        api.STOP_JOB: stop_job,
        api.BREAK: break_it,
        api.LOAD: load,
    }
    frame = application(api.CONTRACT.routes(endpoints), lambda: poller.missing() + proof.missing())
    frame.authorizations_of = logins.authorizations_of

    async def open_() -> None:
        hub.open()

    async def close() -> None:
        await asyncio.to_thread(jobs.close)

    certificates = CertificateSampling(process.brokers, settings.auditor_urls)
    await server.serve(frame, process, [poller, proof, certificates], open_=open_, close=close)


def hello(settings: Settings) -> dict[str, Any]:
    """What a tab has to know first."""
    can_break = settings.stack == "native"
    return {
        "stack": settings.stack,
        "can_break": can_break,
        "services": SERVICES,
        "targets": (*SERVICES, *drill.servers(settings.process.brokers)) if can_break else (),
        "instances_max": drill.SCALED_MAX,
        "shapes": drill.SHAPES,
        "statuses": orders.STATUSES,
        "reasons": orders.REASONS,
        "statements": [{"statement": int(s), "text": text, "counted": counted} for s, (text, counted) in TEXTS.items()],
        "at": now(),
    }


def accepted(job: Job) -> Response:
    """202 with the job."""
    return json_response(job.shown(), 202, {"location": f"/api/jobs/{job.id}"})


def pass_on(order_api: Address, authority: Path | None, body: bytes, headers: Mapping[str, str]) -> Response:
    """The order api's answer to an order, as it is. Raises `ProblemError` 503 when there is none.

    The order comes from the person at the console, with that person's credentials (decision 29).
    """
    connection = connect(order_api.host, order_api.port, timeout_s=PASS_ON_S, authority=authority)
    try:
        connection.request("POST", "/api/v1/orders", body, {"content-type": "application/json", **headers})
        answer = connection.getresponse()
        content = answer.read()
    except (OSError, http.client.HTTPException) as error:
        detail = f"the order api at {order_api.host}:{order_api.port} does not answer: {error}"
        raise ProblemError(problem.unavailable(detail)) from error
    finally:
        connection.close()
    kept = {name: value for name in ("content-type", "retry-after") if (value := answer.headers.get(name))}
    return Response(content, answer.status, kept)
