"""The ceiling: a bare uvicorn that answers every body with itself. `python -m bench.measure.echo PORT`

It is set up like the order api's server (uvloop, httptools, no access log, no server and date headers), so the
difference between the two is what Tandem does with an order.
"""

import sys
from typing import Any, Literal

import uvicorn

HOST = "127.0.0.1"


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """The least that an ASGI app can do with a request."""
    await respond(send, 202, await body_of(receive))


async def body_of(receive: Any) -> bytes:
    message = await receive()
    body: bytes = message["body"]
    while message.get("more_body"):
        message = await receive()
        body += message["body"]
    return body


async def respond(send: Any, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def serve(app: Any, port: int, lifespan: Literal["on", "off"] = "off") -> None:
    uvicorn.run(
        app,
        host=HOST,
        port=port,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan=lifespan,
        access_log=False,
        log_level="warning",
        server_header=False,
        date_header=False,
        proxy_headers=False,
        backlog=2_048,
        timeout_keep_alive=60,
    )


if __name__ == "__main__":
    serve(echo, int(sys.argv[1]))
