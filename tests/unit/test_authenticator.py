"""Who is remembered and for how long, API keys, and where keys come from: files that change, a URL that fails."""

import asyncio
import errno
import os
import threading
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest
from msgspec import structs

from common.auth import sources
from common.auth.api_keys import StoredKey, check_key, new_key, read_key_file, write_key_file
from common.auth.authenticator import CLOSED, OPEN, KeysAway, Verifying
from common.auth.principal import ANYONE, Principal, Unauthenticated
from common.config.auth import Auth
from common.errors import Fatal
from tests.tokens import AUDIENCE, ISSUER, Issuer

T = TypeVar("T")

CREATED: Final = datetime(2026, 11, 29, tzinfo=UTC)
NOW: Final = CREATED.timestamp() + 60
URL: Final = "https://issuer.test/jwks.json"
FIRST, SECOND = Issuer(kid="first"), Issuer(kid="second")


def settings(**chosen: Any) -> Auth:
    return Auth(**{"issuer": ISSUER, "audience": AUDIENCE, "jwks_file": None, "jwks_url": None, "keys_file": None,
                   "leeway_s": 0, **chosen})  # fmt: skip


def replace(path: Path, content: bytes) -> None:
    """As a file of keys has to be changed: whole."""
    other = path.with_suffix(".new")
    other.write_bytes(content)
    other.rename(path)


def bearer(text: str) -> bytes:
    return f"Bearer {text}".encode()


def refusal(authenticator: Verifying, *headers: bytes) -> str:
    with pytest.raises(Unauthenticated) as caught:
        asyncio.run(authenticator.authenticate(headers))
    return str(caught.value)


# The header


@pytest.fixture
def jwks(tmp_path: Path) -> Path:
    path = tmp_path / "jwks.json"
    path.write_bytes(FIRST.jwks())
    return path


def test_a_principal_is_remembered_until_its_token_expires(jwks: Path) -> None:
    time_s = NOW
    authenticator = Verifying(settings(jwks_file=jwks), now=lambda: time_s)
    header = bearer(FIRST.token(claims={"exp": NOW + 10}))
    assert authenticator.known(header) is None
    principal = asyncio.run(authenticator.authenticate([header]))
    assert authenticator.known(header) is principal
    time_s = NOW + 10
    assert authenticator.known(header) is None
    assert refusal(authenticator, header) == "the token has expired"


@pytest.mark.parametrize("scheme", ["bearer", "BEARER", "Bearer   "])
def test_the_scheme_is_read_as_http_says(jwks: Path, scheme: str) -> None:
    authenticator = Verifying(settings(jwks_file=jwks))
    assert asyncio.run(authenticator.authenticate([f"{scheme} {FIRST.token()}".encode()])).subject == "cust-1"


@pytest.mark.parametrize(
    "header",
    [b"", b"Bearer", b"Bearer ", b"Basic YTpi", b"Bearer a b", b"Bearer\ttoken", b"Bearer caf\xe9", b"Bearer a,b"],
)
def test_a_malformed_header_is_refused(jwks: Path, header: bytes) -> None:
    assert refusal(Verifying(settings(jwks_file=jwks)), header) == "the Authorization header must be like: Bearer TOKEN"


def test_missing_and_repeated_headers_are_refused(jwks: Path) -> None:
    authenticator = Verifying(settings(jwks_file=jwks))
    header = bearer(FIRST.token())
    with pytest.raises(Unauthenticated) as caught:
        asyncio.run(authenticator.authenticate([]))
    assert not caught.value.presented
    assert refusal(authenticator, header, header) == "there are 2 Authorization headers, must be one"
    assert "over 4096 bytes" in refusal(authenticator, b"Bearer " + b"a" * 5_000)


def test_it_remembers_a_bounded_number(jwks: Path) -> None:
    authenticator = Verifying(settings(jwks_file=jwks, remembered_max=3))
    headers = [bearer(FIRST.token(f"cust-{number}")) for number in range(5)]
    for header in headers:
        asyncio.run(authenticator.authenticate([header]))
    assert sum(authenticator.known(header) is not None for header in headers) == 3


def test_one_token_in_many_forms_drives_out_no_other(jwks: Path) -> None:
    authenticator = Verifying(settings(jwks_file=jwks, remembered_max=4))
    others, token = bearer(FIRST.token("cust-2")), FIRST.token().encode()
    asyncio.run(authenticator.authenticate([others]))
    for scheme in (b"Bearer ", b"bearer ", b"BEARER ", b"bEARER ", *(b"Bearer" + b" " * n for n in range(2, 9))):
        asyncio.run(authenticator.authenticate([scheme + token]))
    assert authenticator.known(others) is not None
    assert authenticator.known(b"bearer " + token) is not None, "a usual form is found at once"


def test_what_is_refused_is_not_remembered(jwks: Path) -> None:
    authenticator = Verifying(settings(jwks_file=jwks))
    header = bearer(SECOND.token())
    refusal(authenticator, header)
    assert authenticator.known(header) is None


def test_without_authentication_everybody_may_and_without_keys_nobody() -> None:
    assert OPEN.known(None) is asyncio.run(OPEN.authenticate([])) is ANYONE
    assert CLOSED.known(b"Bearer x") is None
    with pytest.raises(Unauthenticated):
        asyncio.run(CLOSED.authenticate([b"Bearer x"]))


# API keys


def made(subject: str = "shop", *scopes: Any, **changes: Any) -> tuple[str, StoredKey]:
    return new_key(subject, scopes or ("merchant",), CREATED, **changes)


def test_a_key_says_who_asks() -> None:
    text, stored = made("cust-000001", "customer", expires_at=CREATED + timedelta(days=1))
    principal = check_key(text.encode(), {stored.id: stored}, NOW)
    tomorrow = CREATED.timestamp() + 86_400
    assert principal == Principal("cust-000001", frozenset({"customer"}), tomorrow, "key", stored.id)


def test_what_is_stored_does_not_open_anything() -> None:
    text, stored = made()
    file = write_key_file([stored])
    assert text.encode() not in file
    assert text.split("_")[2].encode() not in file
    assert read_key_file(file) == {stored.id: stored}
    with pytest.raises(Unauthenticated):
        check_key(f"tdm_{stored.id}_{stored.sha256[:49]}".encode(), {stored.id: stored}, NOW)


def test_a_misspelt_key_is_told_apart_from_a_revoked_one() -> None:
    text, stored = made()
    misspelt = text[:20] + ("a" if text[20] != "a" else "b") + text[21:]
    revoked = {stored.id: structs.replace(stored, revoked_at=CREATED)}
    other_text, _ = made()
    for said, keys, reason in (
        (misspelt, {stored.id: stored}, "misspelt"),
        (text[:-1], {stored.id: stored}, "misspelt"),
        (f"{text}\n", {stored.id: stored}, "misspelt"),
        (text, {}, "there is no such API key"),
        (other_text, {stored.id: stored}, "there is no such API key"),
        (text, revoked, "the API key was revoked"),
    ):
        with pytest.raises(Unauthenticated, match=reason):
            check_key(said.encode(), keys, NOW)


def test_a_secret_of_another_key_does_not_fit() -> None:
    (first, stored), (second, other) = made(), made()
    mixed = {stored.id: structs.replace(other, id=stored.id)}
    with pytest.raises(Unauthenticated, match="no such"):
        check_key(first.encode(), mixed, NOW)
    assert second != first


def test_a_key_expires() -> None:
    text, stored = made(expires_at=CREATED)
    with pytest.raises(Unauthenticated, match="has expired"):
        check_key(text.encode(), {stored.id: stored}, NOW)


@pytest.mark.parametrize(
    ("subject", "scopes"), [("a customer", ("customer",)), ("", ("merchant",)), ("a\nb", ("operator",))]
)
def test_a_key_for_nobody_is_not_made(subject: str, scopes: Any) -> None:
    with pytest.raises(ValueError, match="subject"):
        made(subject, *scopes)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "truncated"),
        (b"[]", "Expected `object`"),
        (b'{"keys": [{}]}', "missing required field"),
        (b'{"kees": []}', "unknown field"),
    ],
)
def test_a_wrong_file_of_keys_is_refused(content: bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=reason):
        read_key_file(content)
    path = tmp_path / "keys.json"
    path.write_bytes(content)
    with pytest.raises(Fatal, match="AUTH_KEYS_FILE="):
        Verifying(settings(keys_file=path))


def test_two_keys_with_one_id_are_refused() -> None:
    _, stored = made()
    with pytest.raises(ValueError, match="same id"):
        read_key_file(write_key_file([stored, stored]))


def test_ids_secrets_and_checksums_have_one_form() -> None:
    for _ in range(200):
        text, stored = made()
        assert len(text) == len("tdm_") + 10 + 1 + 43 + 6
        assert check_key(text.encode(), {stored.id: stored}, NOW).subject == "shop"


# Files of keys


def following(authenticator: Verifying, main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """What `main` returns, while the authenticator follows its sources."""

    async def run() -> T:
        following = asyncio.create_task(authenticator.keep_current())
        try:
            async with asyncio.timeout(10):
                return await main()
        finally:
            following.cancel()

    return asyncio.run(run())


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.auth.authenticator.FILE_CHECK_EVERY_S", 0.001)


async def until_refused(authenticator: Verifying, header: bytes) -> str:
    while True:
        try:
            await authenticator.authenticate([header])
        except Unauthenticated as error:
            return str(error)
        await asyncio.sleep(0.001)


def test_a_revoked_key_is_refused_without_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    text, stored = made()
    path.write_bytes(write_key_file([stored]))
    authenticator = Verifying(settings(keys_file=path), now=lambda: NOW)

    async def main() -> str:
        await authenticator.authenticate([bearer(text)])
        assert authenticator.known(bearer(text)) is not None
        replace(path, write_key_file([structs.replace(stored, revoked_at=CREATED)]))
        return await until_refused(authenticator, bearer(text))

    assert following(authenticator, main) == "the API key was revoked"


def test_a_signing_key_that_is_withdrawn_is_refused_and_a_new_one_good_at_once(jwks: Path) -> None:
    authenticator = Verifying(settings(jwks_file=jwks))

    async def main() -> str:
        old, new = bearer(FIRST.token()), bearer(SECOND.token())
        await authenticator.authenticate([old])
        replace(jwks, FIRST.jwks(SECOND))
        for header in (new, old):
            await authenticator.authenticate([header])
        replace(jwks, SECOND.jwks())
        reason = await until_refused(authenticator, old)
        await authenticator.authenticate([new])
        return reason

    assert following(authenticator, main) == "the token is not signed by a key of the issuer"


def test_a_file_that_breaks_leaves_the_last_good_keys(jwks: Path) -> None:
    authenticator = Verifying(settings(jwks_file=jwks))

    async def main() -> list[str]:
        header = bearer(FIRST.token())
        for broken, reason in ((b"{", "it is not JSON"), (b"{}", "it is no JWKS")):
            replace(jwks, broken)
            await until(lambda reason=reason: reason in str(authenticator.degraded()))  # type: ignore[misc]
            await authenticator.authenticate([header])
        os.unlink(jwks)
        await until(lambda: "No such file" in str(authenticator.degraded()))
        await authenticator.authenticate([header])
        said = authenticator.degraded()
        replace(jwks, SECOND.jwks())
        await until(lambda: not authenticator.degraded())
        await authenticator.authenticate([bearer(SECOND.token())])
        return said

    (said,) = following(authenticator, main)
    assert "AUTH_JWKS: " in said
    assert "the last good keys are in use" in said
    assert authenticator.missing() == []


def test_a_key_is_revoked_even_if_its_file_could_not_be_opened_at_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "keys.json"
    text, stored = made()
    path.write_bytes(write_key_file([stored]))
    authenticator = Verifying(settings(keys_file=path), now=lambda: NOW)
    opens = Path.open

    def no_descriptors(self: Path, mode: str = "r") -> Any:
        if mode != "rb":
            return opens(self, mode)
        raise OSError(errno.EMFILE, "Too many open files")

    async def main() -> str:
        monkeypatch.setattr(Path, "open", no_descriptors)
        replace(path, write_key_file([structs.replace(stored, revoked_at=CREATED)]))
        await until(lambda: "Too many open files" in str(authenticator.degraded()))
        monkeypatch.setattr(Path, "open", opens)
        return await until_refused(authenticator, bearer(text))

    assert following(authenticator, main) == "the API key was revoked"


def test_a_missing_file_ends_the_process_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(Fatal, match=r"AUTH_JWKS='.*nowhere': .*No such file"):
        Verifying(settings(jwks_file=tmp_path / "nowhere"))


def test_too_large_a_file_is_refused(jwks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "FILE_BYTES_MAX", 10)
    with pytest.raises(Fatal, match="it is over 10 bytes"):
        Verifying(settings(jwks_file=jwks))


# A URL of keys


class Endpoint:
    """Answers with keys, when the test lets it; counts."""

    def __init__(self, content: bytes | Exception) -> None:
        self.content = content
        self.fetches = 0
        self.let = threading.Event()
        self.let.set()

    def fetch(self, url: str) -> bytes:
        assert url == URL
        self.fetches += 1
        assert self.let.wait(10)
        if isinstance(self.content, Exception):
            raise self.content
        return self.content


def of_url(endpoint: Endpoint) -> Verifying:
    return Verifying(settings(jwks_url=URL), fetch_keys=endpoint.fetch)


def test_requests_that_name_an_unknown_key_share_one_fetch() -> None:
    endpoint = Endpoint(FIRST.jwks())
    authenticator = of_url(endpoint)

    async def main() -> None:
        await until(lambda: not authenticator.missing())
        sources_last = endpoint.fetches
        endpoint.content = FIRST.jwks(SECOND)
        endpoint.let.clear()
        waiting = [
            asyncio.create_task(authenticator.authenticate([bearer(SECOND.token(f"cust-{n}"))])) for n in range(50)
        ]
        await until(lambda: endpoint.fetches == sources_last + 1)
        # A known key waits for nobody.
        assert (await authenticator.authenticate([bearer(FIRST.token())])).subject == "cust-1"
        assert not any(task.done() for task in waiting)
        endpoint.let.set()
        assert {principal.subject for principal in await asyncio.gather(*waiting)} == {f"cust-{n}" for n in range(50)}
        assert endpoint.fetches == sources_last + 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "URL_RETRY_S", 0.0)
        following(authenticator, main)


def test_what_rests_on_a_key_that_is_gone_is_forgotten_when_a_newer_one_is_fetched() -> None:
    endpoint = Endpoint(FIRST.jwks())
    authenticator = of_url(endpoint)

    async def main() -> None:
        await until(lambda: not authenticator.missing())
        old, new = bearer(FIRST.token()), bearer(SECOND.token())
        with pytest.raises(Unauthenticated):  # a fetch that changes nothing; after it, none is under way
            await authenticator.authenticate([new])
        await authenticator.authenticate([old])
        endpoint.content = SECOND.jwks()
        await authenticator.authenticate([new])
        assert authenticator.known(old) is None
        with pytest.raises(Unauthenticated):
            await authenticator.authenticate([old])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "URL_RETRY_S", 0.0)
        patch.setattr(sources, "URL_FETCH_EVERY_S", 1e9)
        following(authenticator, main)


def test_unknown_keys_cause_no_more_than_one_fetch_in_a_while() -> None:
    endpoint = Endpoint(FIRST.jwks())
    authenticator = of_url(endpoint)

    async def main() -> None:
        await until(lambda: not authenticator.missing())
        for number in range(20):
            with pytest.raises(Unauthenticated):
                await authenticator.authenticate([bearer(Issuer(kid=f"guess-{number}").token())])

    following(authenticator, main)
    assert endpoint.fetches == 1


FAILURES: Final[tuple[bytes | Exception, ...]] = (
    TimeoutError("timed out"), OSError("HTTP Error 500"), ValueError("it is over"), b"{}",
)  # fmt: skip


def test_an_issuer_that_is_away_locks_nobody_out() -> None:
    endpoint = Endpoint(FIRST.jwks())
    authenticator = of_url(endpoint)

    async def main() -> None:
        await until(lambda: not authenticator.missing())
        for failure in FAILURES:
            endpoint.content = failure
            fetches = endpoint.fetches
            with pytest.raises(Unauthenticated):
                await authenticator.authenticate([bearer(SECOND.token())])
            assert endpoint.fetches == fetches + 1
            assert "the last good keys are in use" in authenticator.degraded()[0]
            await authenticator.authenticate([bearer(FIRST.token())])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "URL_RETRY_S", 0.0)
        following(authenticator, main)


def test_before_the_first_keys_nobody_is_judged() -> None:
    endpoint = Endpoint(OSError("Connection refused"))
    authenticator = of_url(endpoint)

    async def main() -> None:
        await until(lambda: authenticator.missing() == ["AUTH_JWKS: Connection refused"])
        with pytest.raises(KeysAway):
            await authenticator.authenticate([bearer(FIRST.token())])
        endpoint.content = FIRST.jwks()
        await until(lambda: not authenticator.missing())
        await authenticator.authenticate([bearer(FIRST.token())])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "URL_RETRY_S", 0.001)
        following(authenticator, main)


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 - there is no event for it
        await asyncio.sleep(0.001)
