"""`python -m common.http.ready` asks the process in this container whether it is ready; it ends with 0 or 1.

Through no proxy: Docker passes that of its configuration on to every container.
"""

import http.client
import os
import sys
from typing import Final

TIMEOUT_S: Final = 4.0


def main() -> int:
    connection = http.client.HTTPConnection("127.0.0.1", int(os.environ["ADMIN_PORT"]), timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        print(answer.read().decode())
    except (OSError, http.client.HTTPException) as error:
        print(f"no answer: {error}")
        return 1
    return 0 if answer.status == http.HTTPStatus.OK else 1


if __name__ == "__main__":
    sys.exit(main())
