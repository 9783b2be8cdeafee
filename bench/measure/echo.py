"""The ceiling: a bare uvicorn that answers every body with itself. `python -m bench.measure.echo PORT`

Set up like the order api's server (uvloop, httptools, no access log, no server and date headers), so that the
difference between the two is what Tandem does with an order.
"""

import sys

import uvicorn

HOST = "127.0.0.1"


async def echo(scope, receive, send) -> None:  # type: ignore[no-untyped-def]
    """The least that an ASGI app can do with a request."""
    message = await receive()
    body = message["body"]
    while message.get("more_body"):
        message = await receive()
        body += message["body"]
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 202, "headers": headers})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    uvicorn.run(
        echo,
        host=HOST,
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="warning",
        server_header=False,
        date_header=False,
        proxy_headers=False,
        backlog=2_048,
    )
