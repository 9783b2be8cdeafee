"""The stack's own certificate authority."""

import shutil
import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import pytest
from cryptography import x509

from common.config.env import LOOPBACK
from common.errors import Fatal
from common.files import write
from common.kafka.access import ADMIN, BROKER
from common.tls.authority import LEAF_DAYS, RENEW_DAYS, Authority, Certificate, Purpose
from dev.native.programs import Programs
from dev.servers.kafka import Broker
from dev.servers.postgres import Cluster
from dev.servers.server import Server
from dev.settings import CONSOLE, SERVICES, Settings


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "secrets")


def shakes_hands(server: Certificate, trusted: Path, host: str, client: Certificate | None = None) -> bool:
    """Whether a client that trusts an authority accepts the server as this host, and is accepted if it has a
    certificate itself. No socket takes part."""
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.load_cert_chain(server.certificate, server.key)
    asking = ssl.create_default_context(cafile=trusted)
    if client is not None:
        serving.verify_mode = ssl.CERT_REQUIRED
        serving.load_verify_locations(trusted)
        asking.load_cert_chain(client.certificate, client.key)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        asking.wrap_bio(to_client, to_server, server_hostname=host),
        serving.wrap_bio(to_server, to_client, server_side=True),
    ]
    try:
        while ends:
            for end in list(ends):
                try:
                    end.do_handshake()
                    ends.remove(end)
                except ssl.SSLWantReadError:
                    pass
    except ssl.SSLCertVerificationError:
        return False
    return True


def test_a_client_accepts_the_hosts_that_a_certificate_names_and_no_others(authority: Authority) -> None:
    server = authority.ensure("payment", ("payment", "127.0.0.1"))
    hosts = ("payment", "127.0.0.1", "inventory", "127.0.0.2", "localhost")
    assert [shakes_hands(server, server.authority, host) for host in hosts] == [True, True, False, False, False]


def test_a_client_refuses_another_authority_and_an_expired_certificate(authority: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other").ensure("payment")
    assert not shakes_hands(other, authority.ensure("payment").authority, "localhost")
    expired = authority.renew("payment", valid=timedelta(days=-1))
    assert not shakes_hands(expired, authority.path, "localhost")


def test_a_certificate_is_good_for_its_purpose_and_no_other(authority: Authority) -> None:
    made = {purpose: authority.ensure(purpose, purpose=purpose) for purpose in get_args(Purpose)}
    good = {(s, c) for s in made for c in made if shakes_hands(made[s], authority.path, "localhost", made[c])}
    assert good == {(s, c) for s in ("server", "both") for c in ("client", "both")}
    assert authority.clients() == ["client"]


def test_a_certificate_of_an_earlier_version_is_replaced(authority: Authority) -> None:
    """It was good for everything."""
    before = authority.ensure("payment", purpose="both").certificate.read_text()
    assert authority.ensure("payment").certificate.read_text() != before


def test_a_certificate_is_kept_until_it_expires_soon_or_its_hosts_change(authority: Authority) -> None:
    def serial(hosts: tuple[str, ...] = LOOPBACK) -> int:
        made = authority.ensure("payment", hosts)
        return x509.load_pem_x509_certificate(made.certificate.read_bytes()).serial_number

    first = serial()
    assert serial() == first
    second = serial(("payment",))
    assert second != first
    authority.renew("payment", ("payment",), timedelta(days=RENEW_DAYS - 1))
    third = serial(("payment",))
    assert serial(("payment",)) == third != second
    authority.path.unlink()
    assert serial(("payment",)) != third, "its authority is another one"


def kept_by_a_process(files: Certificate, folder: Path) -> Certificate:
    """A client reads its certificate when it starts, and keeps it."""
    return Certificate(*(Path(shutil.copy(path, folder)) for path in files))


def test_a_new_certificate_of_a_client_is_taken_beside_the_old_one(authority: Authority, tmp_path: Path) -> None:
    """Processes that run show the old one until they are restarted, and the servers' may be new by then."""
    server = authority.ensure("kafka", purpose="both")
    old = kept_by_a_process(authority.ensure("payment", purpose="client"), tmp_path)
    new = authority.renew("payment", purpose="client")
    renewed_server = authority.renew("kafka", purpose="both")
    for shown in (old, new):
        for serving in (server, renewed_server):
            assert shakes_hands(serving, shown.authority, "localhost", shown)
        assert not shakes_hands(shown, authority.path, "localhost"), "it is no server's"
    leaves = [x509.load_pem_x509_certificate(shown.certificate.read_bytes()) for shown in (old, new)]
    assert leaves[0].subject == leaves[1].subject, "the broker's user is the name in it"
    assert leaves[0].public_key() != leaves[1].public_key()
    assert authority.clients() == ["payment"]


def test_a_rotation_renews_the_certificates_of_all_clients_and_servers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(home=tmp_path, secure=True)
    authority = Authority(settings.secrets)
    programs = Programs(settings, {service.name: 1 for service in SERVICES})
    clients = (ADMIN, "notify")  # one of them that 'just secrets certificate' has made
    for client in clients:
        authority.ensure(client, purpose="client")
    for name in ("postgres", CONSOLE, *(service.name for service in SERVICES)):
        programs.certificate(name)
    authority.ensure(BROKER, purpose="both")
    before = {path.name: path.read_text() for path in settings.secrets.iterdir()}
    shown: list[str] = []

    def show(server: Server) -> None:
        shown.append(server.name)
        file = f"{BROKER if server.name == 'kafka' else server.name}.pem"
        assert (settings.secrets / file).read_text() != before[file]

    monkeypatch.setattr(Cluster, "show_certificate", show)
    monkeypatch.setattr(Broker, "show_certificate", show)
    programs.renew_certificates()
    assert shown == ["postgres", "kafka"]
    same = [name for name, text in before.items() if (settings.secrets / name).read_text() == text]
    assert sorted(same) == ["ca.key", "ca.pem"]
    assert sorted(authority.clients()) == sorted(clients)
    for client in clients:
        files = authority.ensure(client, purpose="client")
        assert shakes_hands(authority.ensure(BROKER, purpose="both"), authority.path, "localhost", files)


@pytest.mark.parametrize("damaged", [False, True])
def test_a_renewal_that_was_killed_after_the_key_is_made_up_for(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, damaged: bool
) -> None:
    made = authority.ensure("payment")

    def until_killed(path: Path, *rest: Any) -> None:
        if path == made.certificate:
            raise KeyboardInterrupt
        write(path, *rest)

    with monkeypatch.context() as killed:
        killed.setattr("common.tls.authority.write", until_killed)
        with pytest.raises(KeyboardInterrupt):
            authority.renew("payment")
    if damaged:
        made.key.write_text("nonsense")
    assert shakes_hands(authority.ensure("payment"), authority.path, "localhost")


def test_a_certificate_is_valid_for_as_long_as_stated(authority: Authority) -> None:
    leaf = x509.load_pem_x509_certificate(authority.ensure("payment").certificate.read_bytes())
    assert timedelta(days=LEAF_DAYS - 1) < leaf.not_valid_after_utc - datetime.now(UTC) <= timedelta(days=LEAF_DAYS)


def test_nobody_else_can_read_the_keys(authority: Authority) -> None:
    made = authority.ensure("payment")
    assert stat.S_IMODE(authority.folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (made.key, authority.folder / "ca.key")} == {0o600}


@pytest.mark.parametrize("name", ["ca.key", "ca.pem", "payment.pem"])
def test_a_damaged_file_is_named(authority: Authority, name: str) -> None:
    authority.ensure("payment")
    (authority.folder / name).write_text("nonsense")
    with pytest.raises(Fatal, match=rf"{name} is .*damaged.*delete .*made anew at the next start"):
        authority.renew("payment") if name == "ca.key" else authority.ensure("payment")
