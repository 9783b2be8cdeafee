"""The bench's own arithmetic: what it counts as latency, as held, as broken, as lost."""

import socket
import ssl
import subprocess
import sys
import threading
import time
from array import array
from pathlib import Path

import msgspec
import pytest
from confluent_kafka import KafkaError, KafkaException

from bench import drive, shaped
from bench.load import governor, runner, shapes, wire
from bench.load.generator import NS
from bench.load.latency import summary, supported
from bench.load.spec import Board, Records, Spec
from bench.load.wire import NotUnderstood, Population
from bench.measure import pairs
from bench.measure.measured import NoResult, check
from bench.measure.orders_log import Event, Outcome, add_event
from common.kafka import warmth
from common.tls.authority import Authority
from dev.environment import child
from dev.settings import ROOT, Settings

ANSWER = b"HTTP/1.1 202 Accepted\r\ncontent-type: application/json\r\ncontent-length: 67\r\n\r\n"
BODY = b'{"order_id":"01997c00-0000-7000-8000-000000000000","status":"pending"}'


def spec(port: int = 1, **changed: object) -> Spec:
    fields = {"mode": "open", "rate": 100.0, "duration_s": 1.0, "connections": 10, **changed}
    return Spec(port=port, population=Population(bodies=100), **fields)  # type: ignore[arg-type]


def records(due: list[int], done: list[int], statuses: list[int], late: int = 0) -> Records:
    """Records as the generator leaves them. Times in milliseconds."""
    return Records(
        spec=spec(), due_ns=array("q", [ms * 1_000_000 for ms in due]), statuses=array("H", statuses),
        done_ns=array("q", [ms * 1_000_000 for ms in done]), started_wall_ns=1_000 * NS, elapsed_s=1.0, cpu_s=0.1,
        ids=[(number, f"order-{number}") for number, status in enumerate(statuses) if status == 202],
        bytes_sent=0, bytes_received=0, connections=1, waited_for_connection=0, late=late,
    )  # fmt: skip


class TestWire:
    def test_an_answer_is_cut_by_its_content_length(self) -> None:
        answer = ANSWER.replace(b"67", b"%d" % len(BODY)) + BODY
        assert wire.length_of(answer) == len(answer)
        assert wire.status_of(answer) == 202
        assert wire.ACCEPTED.findall(answer) == [b"01997c00-0000-7000-8000-000000000000"]

    def test_half_a_head_has_no_length_yet(self) -> None:
        assert wire.length_of(ANSWER[:40]) == 0

    def test_header_names_may_be_capitals(self) -> None:
        assert wire.length_of(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello") == 43

    def test_an_answer_that_cannot_be_cut_is_refused(self) -> None:
        with pytest.raises(NotUnderstood):
            wire.length_of(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")

    def test_the_same_seed_gives_the_same_orders(self) -> None:
        population = Population(bodies=500)
        assert wire.bodies(population) == wire.bodies(population)
        assert wire.bodies(population) != wire.bodies(Population(bodies=500, seed=2))

    def test_customers_do_not_repeat_before_all_were_drawn(self) -> None:
        customers = [
            msgspec.json.decode(body)["customer_id"] for body in wire.bodies(Population(customers=50, bodies=50))
        ]
        assert len(set(customers)) == 50

    def test_a_key_goes_between_the_parts_of_a_request(self) -> None:
        [parts] = wire.requests([b"{}"], "h", "/p", keyed=True)
        request = parts.before + b"k" + parts.after
        assert b"\r\nidempotency-key: k\r\ncontent-length: 2\r\n\r\n{}" in request

    def test_an_order_brings_the_token_of_its_customer(self) -> None:
        bodies, tokens = wire.bodies(Population(customers=3, bodies=3)), [b"t0", b"t1", b"t2", b"merchant"]
        for parts in wire.requests(bodies, "h", "/p", tokens=tokens):
            head, _, body = parts.before.partition(b"\r\n\r\n")
            assert head.endswith(b"Bearer t%b\r\ncontent-length: %d" % (body[26:27], len(body)))
        for options in ({"lines": 3, "tokens": tokens}, {"tokens": [b"merchant"]}):
            assert all(b"Bearer merchant\r\n" in p.before for p in wire.requests(bodies, "h", "/p", **options))

    def test_many_orders_are_lines(self) -> None:
        [parts] = wire.requests([b"{1}", b"{2}", b"{3}"], "h", "/p", lines=2)
        assert parts.before.endswith(b"content-length: 8\r\n\r\n{1}\n{2}\n")


class TestLatency:
    def test_percentiles_are_those_of_the_values(self) -> None:
        latency = summary(range(1_000, 11_000))
        assert latency.samples == 10_000
        assert latency.p50 == pytest.approx(6, rel=0.002)
        assert latency.p99 == pytest.approx(10.9, rel=0.002)
        assert latency.p999 == pytest.approx(10.99, rel=0.002)

    def test_percentiles_that_need_more_samples_are_left_out(self) -> None:
        latency = summary(range(1_000, 1_100))
        assert latency.p50 is not None
        assert latency.p95 is not None
        assert latency.p99 is None
        assert not supported(4_999, 99.9)
        assert supported(5_000, 99.9)

    def test_no_samples_give_no_percentiles(self) -> None:
        assert summary([]).p50 is None

    def test_it_counts_from_when_a_request_was_due_not_from_when_it_was_sent(self) -> None:
        # The server stalls for 100 ms: the second request waits for the connection and is answered in 1 ms.
        loaded = records(due=[0, 10], done=[100, 101], statuses=[202, 202])
        assert loaded.accept_us() == [100_000, 91_000]

    def test_refusals_do_not_flatter_the_latency_of_the_accepted(self) -> None:
        loaded = records(due=[0, 10], done=[50, 11], statuses=[202, 503])
        assert loaded.accept_us() == [50_000]
        assert loaded.by_status == {202: 1, 503: 1}


class TestWarmUp:
    def test_warm_is_when_the_last_two_windows_agree(self) -> None:
        cooling = [2_000.0, 900.0, 760.0, 670.0, 400.0, 260.0, 200.0]
        assert not warmth.is_warm(cooling)
        assert warmth.is_warm([*cooling, 180.0])

    def test_windows_that_agree_early_do_not_count(self) -> None:
        assert not warmth.is_warm([900.0, 890.0])

    def test_an_error_is_not_hidden_by_what_fails_because_of_it(self) -> None:
        def clean_up() -> None:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))

        with pytest.raises(LookupError), warmth._afterwards(clean_up):
            raise LookupError
        with pytest.raises(KafkaException), warmth._afterwards(clean_up):
            pass


class TestGenerator:
    def test_a_stall_of_the_server_shows_in_every_request_due_meanwhile(self) -> None:
        """Coordinated omission: 100 requests a second for 1 s on one connection, at a server that stalls for 0.5 s."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            threading.Thread(target=serve_with_a_stall, args=(listener, 0.5), daemon=True).start()
            result = runner.run(spec(listener.getsockname()[1], connections=1))
        latencies = result.accept_us()
        assert len(latencies) == 100
        # A closed loop would have seen a single slow request; some fifty were due during the stall.
        assert sum(us > 100_000 for us in latencies) >= 30
        assert max(latencies) >= 450_000
        assert result.waited_for_connection >= 30
        assert len(result.ids) == 100

    def test_it_sends_by_the_schedule(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            threading.Thread(target=serve_with_a_stall, args=(listener, 0), daemon=True).start()
            result = runner.run(spec(listener.getsockname()[1], rate=50.0, connections=1))
        gaps = {round((b - a) / 1e6) for a, b in zip(result.due_ns, result.due_ns[1:], strict=False)}
        assert gaps == {20}
        assert len(result.due_ns) == 50

    def test_a_closed_loop_ends_after_its_number_of_requests(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            threading.Thread(target=serve_with_a_stall, args=(listener, 0), daemon=True).start()
            port = listener.getsockname()[1]
            result = runner.run(spec(port, mode="closed", connections=1, duration_s=60.0, requests_max=30))
        assert result.by_status == {202: 30}

    def test_refused_lines_are_refused_orders(self) -> None:
        """A refused line says so in an answer of 200, with the order's id if the log may still take it. A governed load
        must not wait for it, and the log need not have it."""
        line = b'{"status":202,"order_id":"01997c00-0000-7000-8000-000000000000"}\n'
        body = line + line + b'{"status":503,"problem":{"order_id":"01997c00-0000-7000-8000-000000000001"}}\n'
        answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        boards: list[Board] = []
        with socket.create_server(("127.0.0.1", 0)) as listener:
            threading.Thread(target=serve_with_a_stall, args=(listener, 0, answer), daemon=True).start()
            batches = spec(listener.getsockname()[1], rate=50.0, connections=1, lines=3, accepted=200)
            result = runner.run(batches, lambda board, _: boards.append(board), 0.1)
        assert (boards[-1].accepted, boards[-1].refused, boards[-1].failed) == (100, 50, 0)
        assert {order_id[-1] for _, order_id in result.ids} == {"0"}

    def test_it_speaks_tls_and_reads_answers_of_many_records(self, tmp_path: Path) -> None:
        files = Authority(tmp_path).ensure("api")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(files.certificate, files.key)
        body = BODY * 2_000  # over 16 KiB, so several records
        answer = b"HTTP/1.1 202 Accepted\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        with context.wrap_socket(socket.create_server(("127.0.0.1", 0)), server_side=True) as listener:
            threading.Thread(target=serve_with_a_stall, args=(listener, 0, answer), daemon=True).start()
            port, authority = listener.getsockname()[1], str(files.authority)
            result = runner.run(
                spec(port, mode="closed", connections=1, duration_s=60.0, requests_max=30, authority=authority)
            )
        assert result.by_status == {202: 30}
        assert result.bytes_received == 30 * len(answer)

    def test_requests_sent_late_are_counted(self) -> None:
        times = [0] * 100
        assert records(times, times, [202] * 100, late=2).late_share == 0.02


def serve_with_a_stall(listener: socket.socket, stall_s: float, answer: bytes = b"") -> None:
    """Answer one connection's requests; stall once, after the tenth."""
    connection, _ = listener.accept()
    answer = answer or ANSWER.replace(b"67", b"%d" % len(BODY)) + BODY
    with connection:
        for number in range(1_000):
            if not connection.recv(65_536):
                return
            if number == 10 and stall_s:
                time.sleep(stall_s)
            connection.sendall(answer)


class TestHeld:
    times = tuple(number / 2 for number in range(20))

    def test_a_level_backlog_is_held(self) -> None:
        assert not governor.why_not_held(1_000, self.times, [300 + number % 3 for number in range(20)])

    def test_a_growing_backlog_is_not_held(self) -> None:
        assert "grew" in governor.why_not_held(1_000, self.times, [number * 40 for number in range(20)])

    def test_over_a_minute_one_percent_is_growth(self) -> None:
        minute = [number / 2 for number in range(120)]
        assert "grew" in governor.why_not_held(1_000, minute, [number * 6.0 for number in range(120)])
        assert not governor.why_not_held(1_000, minute, [number * 4.0 for number in range(120)])

    def test_a_backlog_that_grew_only_at_the_beginning_is_held(self) -> None:
        assert not governor.why_not_held(1_000, self.times, [min(number, 5) * 60 for number in range(20)])

    def test_a_large_backlog_is_not_held_even_if_level(self) -> None:
        assert "waiting" in governor.why_not_held(1_000, self.times, [2_500] * 20)

    @pytest.mark.parametrize("capacity", [400, 3_000, 12_000])
    def test_the_governor_comes_to_rest_at_capacity(self, capacity: int) -> None:
        """A system that settles `capacity` orders a second, half a second late."""
        rate, backlog, rising = 500.0, 0.0, True
        arriving: list[float] = [0.0]
        offered = []
        for _ in range(80):
            backlog += arriving[-1]
            settled = min(backlog, capacity / 2)
            backlog -= settled
            arriving.append(rate / 2)
            rate, rising = governor.next_rate(rate, settled * 2, backlog, rising=rising)
            offered.append(rate)
        assert sum(offered[-20:]) / 20 == pytest.approx(capacity, rel=0.05)

    @pytest.mark.parametrize("first_rate", [3_300, 4_000, 4_001, 5_200])
    def test_the_highest_rate_is_found_from_below_and_from_above(self, first_rate: float) -> None:
        tried: list[float] = []

        def why_not(rate: float) -> str:
            tried.append(rate)
            return "the backlog grew" if rate > 4_000 else ""

        rate, warning = governor.highest_held(first_rate, why_not)
        assert rate in tried
        assert 4_000 * governor.HOLD_STEP <= rate <= 4_000
        assert not warning

    @pytest.mark.parametrize(
        ("capacity", "warning"),
        [(1e9, "held, and no higher rate was tried: it may be higher"), (0, "not held: it grew")],
    )
    def test_a_search_ends_with_a_warning(self, capacity: float, warning: str) -> None:
        tried: list[float] = []

        def why_not(rate: float) -> str:
            tried.append(rate)
            return "it grew" if rate > capacity else ""

        assert governor.highest_held(1_000, why_not) == (tried[-1], warning)
        assert len(tried) == governor.HOLD_TRIES


class TestLost:
    def test_an_order_that_the_log_does_not_have_is_lost(self) -> None:
        acknowledged = records([0], [1], [202])
        with pytest.raises(NoResult, match="not in the log"):
            check(acknowledged, {})

    def test_an_order_without_an_outcome_is_lost(self) -> None:
        acknowledged = records([0], [1], [202])
        seen: dict[str, Outcome] = {}
        add_event(seen, Event("order.placed", "order-0"), 5)
        with pytest.raises(NoResult, match="no outcome"):
            check(acknowledged, seen)
        add_event(seen, Event("order.confirmed", "order-0"), 9)
        check(acknowledged, seen)
        assert (seen["order-0"].placed_ms, seen["order-0"].decided_ms, seen["order-0"].status) == (5, 9, "confirmed")

    def test_an_outcome_published_again_counts_once_at_its_first_time(self) -> None:
        seen: dict[str, Outcome] = {}
        for at_ms in (9, 20):
            add_event(seen, Event("order.confirmed", "a"), at_ms)
        assert (seen["a"].decided_ms, seen["a"].decisions) == (9, 2)


class TestShapes:
    @pytest.mark.parametrize(
        ("shape", "at_s", "users"),
        [
            ("load", 0, 10), ("load", 59, 10), ("stress", 0, 1), ("stress", 30, 50), ("stress", 89, 100),
            ("spike", 5, 1), ("spike", 20, 50), ("spike", 35, 1), ("spike", 60, 500), ("soak", 1e6, 10),
        ],
    )  # fmt: skip
    def test_users_over_time(self, shape: str, at_s: float, users: int) -> None:
        target = shapes.users_at(shape, at_s)
        assert target is not None
        assert target[0] == users

    @pytest.mark.parametrize(("shape", "at_s"), [("load", 60), ("stress", 90), ("spike", 95)])
    def test_a_shape_ends(self, shape: str, at_s: float) -> None:
        assert shapes.users_at(shape, at_s) is None

    def test_a_run_passes_below_both_limits_only(self) -> None:
        assert not shapes.verdict(10_000, 9, 49)
        assert "p95" in shapes.verdict(10_000, 0, 50)
        assert "failed" in shapes.verdict(10_000, 10, 5)
        assert shapes.verdict(0, 0, 0)


class TestPairs:
    def test_a_steady_difference_is_real_on_a_drifting_machine(self) -> None:
        before = [100.0, 130.0, 90.0, 160.0, 110.0, 140.0]
        change = pairs.compare(
            before, [figure * factor for figure, factor in zip(before, (1.09, 1.11) * 3, strict=True)]
        )
        assert change.real
        assert change.ratio == pytest.approx(1.1, rel=0.01)
        assert change.low < 1.1 < change.high

    def test_noise_is_not_a_difference(self) -> None:
        change = pairs.compare([100.0, 130.0, 90.0, 160.0], [110.0, 120.0, 95.0, 150.0])
        assert not change.real

    def test_two_pairs_hardly_show_anything(self) -> None:
        assert not pairs.compare([100.0, 100.0], [105.0, 110.0]).real

    @pytest.mark.parametrize(("before", "after"), [([1.0], [1.0]), ([1.0, 2.0], [1.0]), ([1.0, 0.0], [1.0, 1.0])])
    def test_figures_that_cannot_be_compared_are_refused(self, before: list[float], after: list[float]) -> None:
        with pytest.raises(ValueError, match=r"pairs|above zero"):
            pairs.compare(before, after)


def test_a_url_where_nothing_listens_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert drive.main(["http://127.0.0.1:1/api/v1/orders", "10", "1"]) == 2
    assert capsys.readouterr().err == "drive: cannot connect to 127.0.0.1:1: Connection refused\n"
    assert drive.main(["https://127.0.0.1:1/", "10", "1", "--ca-file", "nowhere.pem"]) == 2
    assert "drive: there is no nowhere.pem" in capsys.readouterr().err


def test_a_shape_meets_the_stack_as_it_was_started(tmp_path: Path) -> None:
    plain = shaped.running(Settings(home=tmp_path, order_api_port=7), tmp_path / "token")
    assert (plain.url, plain.authority) == ("http://127.0.0.1:7", None)
    encrypted = shaped.running(Settings(home=tmp_path, order_api_port=7, secure=True), tmp_path / "token")
    assert (encrypted.url, encrypted.authority) == ("https://127.0.0.1:7", tmp_path / "secrets" / "ca.pem")


def test_a_shape_finds_docker_where_the_caller_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rootless Docker, Colima and a remote engine are found by DOCKER_HOST or DOCKER_CONTEXT."""
    program = tmp_path / "python"
    program.write_text('#!/bin/sh\necho "$DOCKER_HOST"\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setenv("DOCKER_HOST", "unix:///run/user/1000/docker.sock")
    assert shaped.made_token(tmp_path / "token").read_text() == "unix:///run/user/1000/docker.sock\n"
    stack = shaped.running(Settings(home=tmp_path), tmp_path / "token")
    assert stack.variables["DOCKER_HOST"] == "unix:///run/user/1000/docker.sock"


def test_the_load_trusts_the_authority_of_the_stack(tmp_path: Path) -> None:
    """The client calls the factory with the authorities of the machine (geventhttpclient's `init_ssl_context`)."""
    authority = Authority(tmp_path).ensure("order-api").authority
    code = "import locustfile as l; print(l.Customer.ssl_context_factory(cafile='/none').cert_store_stats()['x509_ca'])"
    trusted = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=child({"TLS_CA_FILE": str(authority)}),
        capture_output=True,
        text=True,
    )
    assert trusted.stdout == "1\n", trusted.stderr
