"""Who sends an attack: somebody who may do anything, somebody whose credentials are bad, or nobody."""

import random
import re
import time
from typing import Final, NamedTuple

from common.auth.principal import SCOPES
from common.http.protocol import HEAD_BYTES_MAX
from tests.fuzz.mutate import mutated
from tests.guarded import Guarded
from tests.tokens import bad_tokens

VALID_S: Final = 6 * 3600
GOOD_SHARE: Final = 0.7
"""Of the attacks, so that most get past the guard."""
MUTATED_SHARE: Final = 0.1
_HOST: Final = b"\r\nhost: localhost\r\n"
_UNFIT: Final = re.compile(rb"[\x00-\x1f\x7f]")


class Credentials(NamedTuple):
    """A line of a head, perhaps none. `good` when they let somebody in, None when that is not known."""

    line: bytes
    good: bool | None

    def put_into(self, parts: list[bytes]) -> list[bytes]:
        """The parts with the line in each of their heads. A head that it would make too large stays as it is."""
        if any(part.find(b"\r\n\r\n") + len(self.line) > HEAD_BYTES_MAX for part in parts):
            return parts
        return [part.replace(_HOST, _HOST + self.line) for part in parts]


class People:
    """Those who are known to instances that ask for credentials, and those who are not."""

    def __init__(self, guarded: Guarded, seed: int) -> None:
        self._seed = seed
        expiry = {"exp": int(time.time()) + VALID_S}
        self._good = [guarded.issuer.token("fuzzer", " ".join(SCOPES), claims=expiry), guarded.key("fuzzer", *SCOPES)]
        self._bad = sorted(bad_tokens(guarded.issuer).values())
        self.polite = _bearer(self._good[0].encode(), good=True)

    def of(self, number: int) -> Credentials:
        """Those of attack `number`."""
        drawn = random.Random(f"{self._seed}/{number}/credentials")
        share = drawn.random()
        good = drawn.choice(self._good).encode()
        if share < GOOD_SHARE:
            return _bearer(good, good=True)
        if share < GOOD_SHARE + MUTATED_SHARE:
            return _bearer(_UNFIT.sub(b"", mutated(drawn, good)), good=None)
        return drawn.choice((_bearer(drawn.choice(self._bad).encode(), good=False), Credentials(b"", good=False)))


def _bearer(token: bytes, *, good: bool | None) -> Credentials:
    return Credentials(b"authorization: Bearer " + token + b"\r\n", good)
