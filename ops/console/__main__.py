"""`python -m ops.console` serves the console."""

from common import command, log
from common.http import server
from ops.console import settings


def serve() -> None:
    from ops.console import app  # here, not above: a wrong setting is reported before anything else is loaded

    chosen = settings.load()
    log.configure(settings.NAME, chosen.process.instance, chosen.process.logs)
    server.run(app.serve(chosen))


if __name__ == "__main__":
    command.run("console", {"": serve})
