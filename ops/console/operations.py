"""What the console offers over HTTP to its own page. Others may read it, but its answers change with the page."""

from typing import Annotated, Final, Literal, TypedDict

from msgspec import Meta

from common.auth.access import PUBLIC, scopes
from common.auth.principal import AUDITOR, CUSTOMER, MERCHANT, OPERATOR
from common.http import problem
from common.http.contract.operation import BUFFERING, LOCATION, Answer, Body, Header, Operation
from common.http.contract.service import Contract
from common.http.responses import UuidText
from ops.console.drill import NOT_ALLOWED, Drill, Load
from ops.console.jobs import BUSY, CANNOT_STOP, JobList, JobView, JobWithResults
from ops.console.orders import OrderRecords, OrdersPage, Search
from ops.console.parked.acts import Act, DryRun
from ops.console.parked.listing import Listing, ParkedPage, ParkedWithBytes
from ops.console.session.logins import Nothing, SessionView
from ops.trace.story import Story
from order.api.requests import OrderRequest
from order.api.responses import Accepted

ORDERS: Final = "orders"
DEAD_LETTERS: Final = "dead letters"
JOBS: Final = "jobs"
PAGE: Final = "page"
SESSION: Final = "session"
READ: Final = scopes(OPERATOR, AUDITOR)
ACT_ON: Final = scopes(OPERATOR)
SET_COOKIE: Final = Header(name="Set-Cookie", description="the cookie of the session", required=True)
_ORDER_ID: Final = {"order_id": UuidText}
_JOB_ID: Final = {"job_id": Annotated[str, Meta(max_length=64)]}


class Streamed(TypedDict):
    """A message of the stream: what the page has to know first, the points of its charts, and then one of them at a
    time; the flow, the proof and the jobs. `data` is JSON."""

    event: Literal["hello", "history", "point", "flow", "proof", "job"]
    data: str


_STARTED: Final = Answer(
    status=202, kind=JobView, headers=(LOCATION,), description="the job, which goes on in the background"
)

INDEX: Final = Operation(
    method="GET", path="/", id="index", tag=PAGE, access=PUBLIC,
    summary="The console's page", documented=False, conditional=True,
    answers=(Answer(status=200, kind=str, media_types=("text/html",), description="the page"),),
)  # fmt: skip
FILE: Final = Operation(
    method="GET", path="/static/{path:path}", id="file", tag=PAGE, access=PUBLIC,
    summary="A file of the page", documented=False,
    conditional=True, parameters={"path": str}, answers=(Answer(status=200, kind=str, description="the file"),),
    problems=(problem.NOT_FOUND,),
)  # fmt: skip
STREAM: Final = Operation(
    method="GET", path="/api/stream", id="stream", tag=PAGE, access=READ,
    summary="Server-sent events: all that the page shows live",
    answers=(
        Answer(
            status=200, kind=Streamed, media_types=("text/event-stream",), headers=(BUFFERING,),
            description="the events; the schema is that of one",
        ),
    ),
    problems=(problem.UNAVAILABLE,),
)  # fmt: skip
WHO: Final = Operation(
    method="GET", path="/api/session", id="getSession", tag=SESSION, access=READ,
    summary="Who uses the console, and what they may do", answers=(Answer(status=200, kind=SessionView),),
)  # fmt: skip
LOG_IN: Final = Operation(
    method="POST", path="/api/session", id="logIn", tag=SESSION, access=READ,
    summary="Begin a session with the token or the API key of this request; a cookie stands for it after that",
    body=Body(kind=Nothing, examples={"nothing": Nothing()}),
    answers=(
        Answer(status=201, kind=SessionView, headers=(SET_COOKIE,)),
        Answer(status=200, kind=SessionView, description="there is a session already, or AUTH=off"),
    ),
)  # fmt: skip
LOG_OUT: Final = Operation(
    method="DELETE", path="/api/session", id="logOut", tag=SESSION, access=READ, summary="End the session",
    answers=(Answer(status=204, description="it has ended", headers=(SET_COOKIE,)),),
)  # fmt: skip
SEARCH: Final = Operation(
    method="GET", path="/api/orders", id="searchOrders", tag=ORDERS, access=READ,
    summary="Find orders, newest first", query=Search,
    answers=(Answer(status=200, kind=OrdersPage),), problems=(problem.UNAVAILABLE,),
)  # fmt: skip
PLACE: Final = Operation(
    method="POST", path="/api/orders", id="placeOrder", tag=ORDERS, access=scopes(CUSTOMER, MERCHANT),
    summary="Pass an order on to the order api",
    body=Body(
        kind=OrderRequest,
        examples={"one product": OrderRequest(customer_id="cust-000001", product_id="sku-0001", quantity=2)},
    ),
    description="The answer is the order api's, whatever its status; that service's document has them all.",
    key="as in the order api",
    answers=(Answer(status=202, kind=Accepted, description="the order api's answer"),), problems=(problem.UNAVAILABLE,),
)  # fmt: skip
STORY: Final = Operation(
    method="GET", path="/api/orders/{order_id}", id="getStory", tag=ORDERS, access=READ, parameters=_ORDER_ID,
    summary="All that the databases know of an order", answers=(Answer(status=200, kind=Story),),
    problems=(problem.NOT_FOUND, problem.UNAVAILABLE),
)  # fmt: skip
EVENTS: Final = Operation(
    method="GET", path="/api/orders/{order_id}/events", id="listEvents", tag=ORDERS, access=READ, parameters=_ORDER_ID,
    summary="The records of an order, as the log has them", answers=(Answer(status=200, kind=OrderRecords),),
    problems=(problem.NOT_FOUND, problem.UNAVAILABLE),
)  # fmt: skip
PARKED: Final = Operation(
    method="GET", path="/api/dead-letters", id="listParked", tag=DEAD_LETTERS, access=READ, query=Listing,
    summary="List parked events", answers=(Answer(status=200, kind=ParkedPage),), problems=(problem.UNAVAILABLE,),
)  # fmt: skip
ACT: Final = Operation(
    method="POST", path="/api/dead-letters/acts", id="act", tag=DEAD_LETTERS, access=ACT_ON,
    summary="Redrive or discard parked events, or say what that would change (dry_run)",
    body=Body(kind=Act, examples={"a dry run": Act(act="redrive", dry_run=True, filter=None, events=None)}),
    answers=(_STARTED, Answer(status=200, kind=DryRun)), problems=(BUSY, problem.NOT_FOUND, problem.UNAVAILABLE),
)  # fmt: skip
PARKED_EVENT: Final = Operation(
    method="GET", path="/api/dead-letters/{service}/{record:path}", id="getParked", tag=DEAD_LETTERS, access=READ,
    parameters={"service": str, "record": Annotated[str, Meta(description="such as orders/3@17")]},
    summary="A parked event with its bytes, and what operators did to it",
    answers=(Answer(status=200, kind=ParkedWithBytes),), problems=(problem.NOT_FOUND, problem.UNAVAILABLE),
)  # fmt: skip
VERIFY: Final = Operation(
    method="POST", path="/api/verify", id="verify", tag=JOBS, access=ACT_ON, summary="Start a full proof",
    body=Body(kind=Nothing, examples={"nothing": Nothing()}), answers=(_STARTED,), problems=(BUSY,),
)  # fmt: skip
LIST_JOBS: Final = Operation(
    method="GET", path="/api/jobs", id="listJobs", tag=JOBS, access=READ,
    summary="List the jobs that run or ended last",
    answers=(Answer(status=200, kind=JobList),),
)  # fmt: skip
JOB: Final = Operation(
    method="GET", path="/api/jobs/{job_id}", id="getJob", tag=JOBS, access=READ, parameters=_JOB_ID,
    summary="A job with its results", answers=(Answer(status=200, kind=JobWithResults),), problems=(problem.NOT_FOUND,),
)  # fmt: skip
STOP_JOB: Final = Operation(
    method="POST", path="/api/jobs/{job_id}/stop", id="stopJob", tag=JOBS, access=ACT_ON, parameters=_JOB_ID,
    summary="Stop a job",
    body=Body(kind=Nothing, examples={"nothing": Nothing()}), answers=(_STARTED,),
    problems=(CANNOT_STOP, problem.NOT_FOUND),
)  # fmt: skip
BREAK: Final = Operation(
    method="POST", path="/api/break", id="breakIt", tag=JOBS, access=ACT_ON,
    summary="Stop, kill or freeze a part of the stack",
    body=Body(kind=Drill, examples={"kill payment": Drill("kill", "payment")}), answers=(_STARTED,),
    problems=(NOT_ALLOWED, BUSY),
)  # fmt: skip
LOAD: Final = Operation(
    method="POST", path="/api/load", id="load", tag=JOBS, access=ACT_ON, summary="Start a shape of load",
    body=Body(kind=Load, examples={"ten users": Load("load")}), answers=(_STARTED,), problems=(NOT_ALLOWED, BUSY),
)  # fmt: skip

CONTRACT: Final = Contract(
    "Tandem console",
    "What the console's page asks for. It is for that page: its answers change without notice.",
    (
        INDEX, FILE, STREAM, WHO, LOG_IN, LOG_OUT, SEARCH, PLACE, STORY, EVENTS, PARKED, ACT, PARKED_EVENT, VERIFY,
        LIST_JOBS, JOB, STOP_JOB, BREAK, LOAD,
    ),
)  # fmt: skip
