"""`python -m common.http.ready` asks the process in this container whether it is ready; it ends with 0 or 1.

Through no proxy: Docker passes that of its configuration on to every container. By TLS when the process serves it.
"""

import http.client
import os
import sys
from pathlib import Path
from typing import Final

from common.tls.client import connection

TIMEOUT_S: Final = 4.0


def main() -> int:
    authority = Path(os.environ["TLS_CA_FILE"]) if "TLS_CERT_FILE" in os.environ else None
    asking = connection("127.0.0.1", int(os.environ["ADMIN_PORT"]), timeout_s=TIMEOUT_S, authority=authority)
    try:
        asking.request("GET", "/readyz")
        answer = asking.getresponse()
        print(answer.read().decode())
    except (OSError, http.client.HTTPException) as error:
        print(f"no answer: {error}")
        return 1
    return 0 if answer.status == http.HTTPStatus.OK else 1


if __name__ == "__main__":
    sys.exit(main())
