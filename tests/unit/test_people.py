"""The stack's own issuer and its API keys: what it signs and makes is accepted, until it is rotated or revoked."""

import stat
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from common.auth.api_keys import check_key, read_key_file
from common.auth.principal import Principal, Unauthenticated, UnknownKey
from common.auth.signing_keys import read_jwks
from common.auth.tokens import Expected, check_token
from common.config.env import Env
from common.errors import Fatal
from common.files import write
from dev.settings import free_ports, own_auth
from ops import record
from ops.people import __main__ as people
from ops.people import issuer, keys, token
from ops.people.issuer import SKEW_S, TTL_MAX_S, Store

EXPECTED = Expected("tandem", "tandem", 30)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an issuer and of API keys, which the tools find by the environment."""
    folder = tmp_path / "auth"
    for name, value in own_auth(folder).items():
        monkeypatch.setenv(name, value)
    people.main([])
    return folder


@pytest.fixture(autouse=True)
def audit(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What the tools record in the audit: acts, and to what they were done."""
    recorded: list[tuple[str, str]] = []

    def record(_: Env, act: str, target: str, *rest: Any) -> None:
        recorded.append((act, target))

    for module in (keys, token):
        monkeypatch.setattr(module, "record", record)
    return recorded


@pytest.fixture
def say(folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a tool, and returns what it prints to stdout."""

    def run(main: Callable[[list[str]], int], *arguments: str) -> str:
        capsys.readouterr()
        assert main(list(arguments)) == 0
        return capsys.readouterr().out.rstrip("\n")

    return run


def principal(folder: Path, text: str, now: float | None = None) -> Principal:
    """Who the services take somebody with this token for."""
    signing = read_jwks((folder / "jwks.json").read_bytes())
    return check_token(text.encode(), signing, EXPECTED, time.time() if now is None else now)


def key_holder(folder: Path, text: str) -> Principal:
    """Who the services take somebody with this API key for."""
    return check_key(text.encode(), read_key_file((folder / "keys.json").read_bytes()), time.time())


def test_a_token_says_who_asks_and_how_long(folder: Path, say: Callable[..., str]) -> None:
    text = say(token.main, "customer", "cust-000001", "--ttl", "15m")
    asks = principal(folder, text)
    assert (asks.subject, {*asks.scopes}, asks.kind) == ("cust-000001", {"customer"}, "token")
    assert asks.expires_at == pytest.approx(time.time() + 15 * 60 + EXPECTED.leeway_s, abs=5)
    with pytest.raises(Unauthenticated, match="expired"):
        principal(folder, text, time.time() + 16 * 60)
    assert principal(folder, say(token.main, "operator,merchant", "ada")).scopes == {"operator", "merchant"}
    assert principal(folder, say(token.main, "auditor")).subject


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["customer"], "a customer is named by its id, such as cust-000001, not by no name"),
        (["customer", "not an id"], "a customer is named by its id, .* not by 'not an id'"),
    ],
)
def test_a_customer_is_named_by_its_id(folder: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(Fatal, match=message):
        token.main(arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["king"], "'king' is not a scope; there are customer, merchant, operator, auditor"),
        (["merchant", "--ttl", "25h"], "'25h' is not a time such as 15m or 12h, up to 24h"),
        (["merchant", "--ttl", "0m"], "'0m' is not a time"),
    ],
)
def test_a_wrong_argument_is_named(
    folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        token.main(arguments)
    assert message in capsys.readouterr().err


def test_only_the_owner_can_read_what_is_secret(folder: Path) -> None:
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.iterdir())}
    assert modes == {"auth": 0o700, "issuer.json": 0o600, "keys.json": 0o600, "jwks.json": 0o644}


def test_a_second_start_keeps_keys_and_tokens(folder: Path, say: Callable[..., str]) -> None:
    text, key = say(token.main, "merchant"), say(keys.main, "create", "merchant", "shop")
    (folder / "jwks.json").unlink()
    people.main([])
    assert principal(folder, text).scopes == key_holder(folder, key).scopes == {"merchant"}


def test_tokens_outlive_a_rotation_until_they_expire(folder: Path, say: Callable[..., str]) -> None:
    before = say(token.main, "merchant", "--ttl", "24h")
    assert "stay valid" in say(keys.main, "rotate-issuer")
    after = say(token.main, "merchant")
    assert principal(folder, before).scopes == principal(folder, after).scopes == {"merchant"}
    stored = msgspec.json.decode((folder / "issuer.json").read_bytes())
    assert ["d" in key["jwk"] for key in stored] == [False, True], "a key that signs no more can sign no more"
    published = msgspec.json.decode((folder / "jwks.json").read_bytes())["keys"]
    assert [set(key) for key in published] == [{"kty", "crv", "x", "kid", "alg", "use"}] * 2


def test_a_key_is_withdrawn_when_its_last_token_has_expired() -> None:
    first = issuer.new_key()
    second = issuer.rotated([first], 1_000)
    assert [key.until for key in second] == [1_000 + TTL_MAX_S + SKEW_S, None]
    third = issuer.rotated(second, 2_000)
    assert [key.until for key in third] == [second[0].until, 2_000 + TTL_MAX_S + SKEW_S, None]
    assert third[0].jwk["kid"] == first.jwk["kid"]
    assert [key.jwk["kid"] for key in issuer.rotated(third, 1_000 + TTL_MAX_S + SKEW_S)][:2] == [
        second[1].jwk["kid"],
        third[2].jwk["kid"],
    ]


def test_a_rotation_at_once_ends_all_tokens(folder: Path, say: Callable[..., str]) -> None:
    before = say(token.main, "merchant")
    say(keys.main, "rotate-issuer", "--at-once")
    with pytest.raises(UnknownKey):
        principal(folder, before)
    assert principal(folder, say(token.main, "merchant")).scopes == {"merchant"}


def test_a_rotation_that_fails_half_way_refuses_no_token(
    folder: Path, say: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = say(token.main, "merchant")

    written: list[Path] = []

    def until_the_disk_is_full(path: Path, *rest: Any) -> None:
        if written:
            raise OSError(28, "No space left on device")
        written.append(path)
        write(path, *rest)

    monkeypatch.setattr("ops.people.issuer.write", until_the_disk_is_full)
    with pytest.raises(OSError, match="No space left"):
        keys.main(["rotate-issuer"])
    assert principal(folder, before).scopes == principal(folder, say(token.main, "merchant")).scopes == {"merchant"}


def test_the_keys_of_another_issuer_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other, own = tmp_path / "other.json", tmp_path / "auth"
    other.write_text('{"keys": []}')
    for name, value in (own_auth(own) | {"AUTH_JWKS": str(other), "AUTH_ISSUER": "https://id.example"}).items():
        monkeypatch.setenv(name, value)
    people.main([])
    assert (other.read_text(), (own / "issuer.json").exists()) == ('{"keys": []}', False)
    for main, arguments in ((token.main, ["merchant"]), (keys.main, ["rotate-issuer"])):
        with pytest.raises(Fatal, match=r"has the keys of another issuer \(https://id\.example\): ask that one"):
            main(arguments)


def test_a_damaged_file_of_public_keys_is_no_other_issuers(folder: Path, say: Callable[..., str]) -> None:
    (folder / "jwks.json").write_text("{")
    for main, arguments in ((people.main, []), (token.main, ["merchant"])):
        with pytest.raises(Fatal, match=r"jwks\.json cannot be read .*; put it back; .*'just up' makes it anew"):
            main(arguments)
    (folder / "jwks.json").unlink()
    people.main([])
    assert principal(folder, say(token.main, "merchant")).scopes == {"merchant"}


@pytest.mark.parametrize("text", ["[]", "{", '[{"jwk": 1}]'])
def test_a_damaged_file_of_keys_is_named_with_the_way_out(text: str, tmp_path: Path) -> None:
    (tmp_path / "issuer.json").write_text(text)
    with pytest.raises(Fatal, match=r"issuer\.json cannot be read .*; delete it, and 'just up' makes new keys"):
        Store(tmp_path / "issuer.json", tmp_path / "jwks.json").read()


def test_an_api_key_is_shown_once_and_ends_when_it_is_revoked(
    folder: Path, say: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    text = say(keys.main, "create", "merchant", "shop", "--days", "90")
    asks = key_holder(folder, text)
    assert (asks.subject, {*asks.scopes}, asks.kind) == ("shop", {"merchant"}, "key")
    stored = read_key_file((folder / "keys.json").read_bytes())[asks.credential]
    assert text not in (folder / "keys.json").read_text()
    for listed in (say(keys.main, "list"), say(keys.main, "list", "--json")):
        assert asks.credential in listed
        assert not any(secret in listed for secret in (text, stored.sha256))
    assert "valid" in say(keys.main, "list")
    say(keys.main, "revoke", asks.credential)
    with pytest.raises(Unauthenticated, match="revoked"):
        key_holder(folder, text)
    assert "revoked" in say(keys.main, "list")
    with pytest.raises(Fatal, match="was revoked before"):
        keys.main(["revoke", text])
    with pytest.raises(Fatal, match="there is no key 'nobody'; 'just keys list' shows all"):
        keys.main(["revoke", "nobody"])


def test_what_lets_somebody_in_is_not_shown_unless_it_is_recorded(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in (keys, token):
        monkeypatch.setattr(module, "record", record.record)
    monkeypatch.setenv("ORDER_DATABASE_URL", f"postgresql://order@127.0.0.1:{free_ports(1)[0]}/order")
    held = (folder / "keys.json").read_bytes()
    for main, arguments in ((token.main, ["merchant", "ada"]), (keys.main, ["create", "merchant", "shop"])):
        with pytest.raises(Fatal, match=r"(make-token token \S+|create-key key \w+) is not recorded in the audit: "):
            main(arguments)
    assert (capsys.readouterr().out, (folder / "keys.json").read_bytes()) == ("", held)


def test_what_shuts_somebody_out_needs_no_database(
    folder: Path, say: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = say(keys.main, "create", "merchant", "shop")
    monkeypatch.setattr(keys, "record", record.record)
    monkeypatch.setenv("ORDER_DATABASE_URL", f"postgresql://order@127.0.0.1:{free_ports(1)[0]}/order")
    with pytest.raises(Fatal, match="is not recorded in the audit"):
        keys.main(["revoke", text])
    with pytest.raises(Unauthenticated, match="revoked"):
        key_holder(folder, text)


def test_what_is_done_is_in_the_audit(folder: Path, say: Callable[..., str], audit: list[tuple[str, str]]) -> None:
    jti = principal(folder, say(token.main, "operator", "ada")).credential
    id_ = key_holder(folder, say(keys.main, "create", "merchant", "shop")).credential
    say(keys.main, "revoke", id_)
    say(keys.main, "rotate-issuer")
    assert audit == [
        ("make-token", f"token {jti}"),
        ("create-key", f"key {id_}"),
        ("revoke-key", f"key {id_}"),
        ("rotate", "the issuer's key"),
    ]


def test_keys_that_are_made_at_once_are_all_kept(folder: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda n: keys.main(["create", "auditor", f"machine-{n}"]), range(8)))
    assert len(read_key_file((folder / "keys.json").read_bytes())) == len(made)
