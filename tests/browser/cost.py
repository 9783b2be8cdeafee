"""`just console-cost`: what the console costs. `list` shows 100,000 events in a page, `soak` keeps twenty tabs
open, `order` compares the cost of an order without and with them."""

import argparse
import http.client
import math
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import psutil
from playwright.sync_api import CDPSession, Page, expect, sync_playwright

from bench.measure.orders_log import OrdersLog
from bench.measure.pairs import compare
from dev.servers.server import Server
from dev.settings import HOST
from tests.browser import made_up
from tests.browser.conftest import find_browser
from tests.browser.fake import Fake, Json, serving
from tests.browser.screenshots import furnish, load
from tests.console import RunningConsole
from tests.stack import Stack
from tests.waiting import eventually

EVENTS: Final = 100_000
PAGE: Final = 200
SCROLLS: Final = 300
MIB: Final = 1024 * 1024
PATIENCE_S: Final = 120.0
WINDOW_S: Final = 12.0
ALONE_S: Final = 180.0
FITTED_MIN: Final = 40
"""The last minutes of a soak, by which the growth of the memory is told: what fills up at the start is full by then."""
RECORDS_AN_ORDER: Final = 2
"""In its topic: that it was placed, and its outcome."""

OBSERVE: Final = """
  globalThis.longTasks = [];
  new PerformanceObserver((list) => longTasks.push(...list.getEntries().map((task) => task.duration)))
    .observe({type: "longtask"});
"""
SCROLL: Final = """
  (steps) => new Promise((done) => {
    const list = document.querySelector(".windowed");
    const frames = [];
    let step = 0, last = performance.now();
    const frame = (now) => {
      frames.push(now - last);
      last = now;
      if (step++ === steps) return done(frames.slice(1).sort((a, b) => a - b));
      list.scrollTop = (list.scrollHeight - list.clientHeight) * step / steps;
      requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
  })
"""


# A long list


class Paging(Fake):
    """Answers page by page, as the console does."""

    def get(self, path: str, query: dict[str, str]) -> tuple[int, Json]:
        if path != "/api/dead-letters":
            return super().get(path, query)
        first = int(query.get("after", "0"))
        events = [made_up.parked(number) for number in range(first, min(first + PAGE, EVENTS))]
        following = str(first + PAGE) if first + PAGE < EVENTS else None
        return 200, {"events": events, "next": following, "total": EVENTS, "stops": [], "problems": {}}


class Measured:
    """A page whose long tasks, heap and nodes are printed step by step."""

    def __init__(self, page: Page, devtools: CDPSession) -> None:
        self.page = page
        self._devtools = devtools
        devtools.send("Performance.enable")
        devtools.send("HeapProfiler.enable")

    def step(self, name: str, act: Callable[[Page], str | None]) -> None:
        began_s = time.monotonic()
        remark = act(self.page) or ""
        took_s = time.monotonic() - began_s
        tasks: list[float] = self.page.evaluate("longTasks.splice(0)")
        self._devtools.send("HeapProfiler.collectGarbage")
        metrics = {m["name"]: m["value"] for m in self._devtools.send("Performance.getMetrics")["metrics"]}
        print(
            f"| {name} | {took_s:.1f} s | {len(tasks)} | {max(tasks, default=0):.0f} ms "
            f"| {metrics['JSHeapUsedSize'] / MIB:.0f} MiB | {self.page.locator('*').count():,} | {remark} |",
            flush=True,
        )


def opened(page: Page) -> None:
    page.goto("/#/dead-letters")
    expect(page.get_by_text(f"Events: {EVENTS:,} match")).to_be_visible()


def loaded(page: Page) -> None:
    """Go to the end until there is no more of it."""
    region = page.get_by_role("region", name="Dead letters")
    last = page.get_by_role("link", name=f"orders/3@{EVENTS - 1}", exact=True)
    while not last.is_visible():
        region.press("End")


def scrolled(page: Page) -> str:
    frames: list[float] = page.evaluate(SCROLL, SCROLLS)
    return f"frames p50 {frames[len(frames) // 2]:.0f} ms, p99 {frames[int(len(frames) * 0.99)]:.0f} ms"


def chosen(page: Page) -> None:
    page.get_by_role("button", name="Choose all loaded").click()
    expect(page.get_by_text(f"{EVENTS:,} chosen")).to_be_visible()


def typed(page: Page) -> None:
    page.get_by_label("Customer").press_sequentially("cust-000017")


def measure_list(executable: str) -> None:
    print("| step | took | long tasks | longest | heap | nodes | |\n|---|---|---|---|---|---|---|")
    whole = Fake()
    whole.letters = made_up.dead_letters(EVENTS)
    expect.set_options(timeout=PATIENCE_S * 1000)
    for name, fake in (("in one answer", whole), (f"in pages of {PAGE}", Paging())):
        with serving(fake) as origin, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=executable)
            page = browser.new_page(base_url=origin, viewport={"width": 1280, "height": 900})
            page.set_default_timeout(PATIENCE_S * 1000)
            page.add_init_script(OBSERVE)
            measured = Measured(page, page.context.new_cdp_session(page))
            measured.step(f"{name}: open", opened)
            if isinstance(fake, Paging):
                measured.step("load all", loaded)
            measured.step(f"scroll through in {SCROLLS} frames", scrolled)
            measured.step("choose all", chosen)
            measured.step("type into a field", typed)
            browser.close()


# Twenty tabs


class Tab:
    """A stream that is read as a browser reads it; counts its messages."""

    def __init__(self, port: int) -> None:
        self.flows = 0
        self._connection = http.client.HTTPConnection(HOST, port, timeout=PATIENCE_S)
        self._connection.request("GET", "/api/stream")
        self._answer = self._connection.getresponse()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            for line in self._answer:
                self.flows += line == b"event: flow\n"
        except (OSError, ValueError, http.client.HTTPException):
            pass  # the console has ended


def cpu_s(server: Server) -> float:
    """The CPU that a process and its children have used."""
    assert server.process is not None
    process = psutil.Process(server.process.pid)
    used_s = 0.0
    for one in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):  # such as a worker of PostgreSQL, which comes and goes
            used_s += sum(one.cpu_times()[:2])
    return used_s


def shares(servers: dict[str, Server], seconds: float) -> dict[str, float]:
    """The share of a core that each uses over so many seconds."""
    before = {name: cpu_s(server) for name, server in servers.items()}
    began_s = time.monotonic()
    time.sleep(seconds)
    elapsed_s = time.monotonic() - began_s
    return {name: (cpu_s(server) - before[name]) / elapsed_s for name, server in servers.items()}


@contextmanager
def shop(orders_per_s: int) -> Iterator[Stack]:
    """A stack with a load."""
    with tempfile.TemporaryDirectory(prefix="tandem-") as directory:
        stack = Stack(Path(directory))
        ended = threading.Event()
        loading = threading.Thread(target=load, args=(stack, ended, orders_per_s))
        try:
            stack.start_infrastructure()
            stack.launch_all()
            furnish(stack)
            loading.start()
            yield stack
        finally:
            ended.set()
            if loading.is_alive():
                loading.join()
            stack.stop()


def growth(mib: Sequence[float]) -> tuple[float, float]:
    """By how much the last of these sizes, one a minute, grow in an hour: the slope of a straight line through them,
    and twice its standard error."""
    last = mib[-FITTED_MIN:]
    minutes = range(len(last))
    slope, start = statistics.linear_regression(minutes, last)
    rest = sum((size - start - slope * minute) ** 2 for minute, size in zip(minutes, last, strict=True))
    spread = sum((minute - statistics.mean(minutes)) ** 2 for minute in minutes)
    return slope * 60, 2 * 60 * math.sqrt(rest / max(1, len(last) - 2) / spread)


def soak(minutes: int, tabs: int, orders_per_s: int, alone_s: float) -> None:
    with shop(orders_per_s) as stack:
        asked: dict[str, Server] = {**stack.instances, "postgres": stack.postgres, "kafka": stack.kafka}
        without = {}
        if alone_s:
            time.sleep(alone_s / 2)  # the broker's JVM warms up
            without = shares(asked, alone_s)
        console = RunningConsole(stack)
        console.start()
        try:
            streams = [Tab(console.port) for _ in range(tabs)]
            assert console.process is not None
            process = psutil.Process(console.process.pid)
            print(f"{tabs} tabs, {orders_per_s} orders/s\n")
            # The same load costs the others more as well when the machine has other work.
            print("| minute | console, of a core | RSS | all others, of a core |\n|---|---|---|---|")
            sums = dict.fromkeys(asked, 0.0)
            rss: list[float] = []
            began_s = time.monotonic()
            for minute in range(1, minutes + 1):
                used = shares({**asked, "console": console}, 60.0)
                rss.append(process.memory_info().rss / MIB)
                others = sum(used[name] for name in asked)
                print(f"| {minute} | {used['console']:.2%} | {rss[-1]:.1f} MiB | {others:.0%} |", flush=True)
                for name in sums:
                    sums[name] += used[name]
            elapsed_s = time.monotonic() - began_s
            flows = min(tab.flows for tab in streams) / elapsed_s
            print(f"\nEvery tab got {flows:.2f} messages of the flow a second, or more.\n")
            if len(rss) > 2:
                slope, error = growth(rss)
                fitted = min(FITTED_MIN, len(rss))
                print(f"RSS in the last {fitted} minutes: {slope:+.2f} MiB an hour, give or take {error:.2f}.\n")
            print("| process | without the console | with it |\n|---|---|---|")
            for name, used_s in sums.items():
                alone = f"{without[name]:.1%}" if without else ""
                print(f"| {name} | {alone} | {used_s / minutes:.1%} |")
        finally:
            console.stop()


def order(pairs: int, tabs: int, orders_per_s: int) -> None:
    """Whether an order costs the stack more CPU while tabs are open: windows without a console and with it, in turn."""
    costs: dict[bool, list[float]] = {False: [], True: []}
    own = []
    with shop(orders_per_s) as stack:
        asked: dict[str, Server] = {**stack.instances, "postgres": stack.postgres, "kafka": stack.kafka}
        log = OrdersLog(stack.brokers)
        time.sleep(2 * WINDOW_S)  # the broker's JVM warms up
        for number in range(2 * pairs):
            with_console = number % 4 in (1, 2)  # without, with, with, without: a drift counts for neither
            with open_tabs(stack, tabs if with_console else 0) as console:
                before = log.records()
                used = shares(asked if console is None else {**asked, "console": console}, WINDOW_S)
                settled_per_s = (log.records() - before) / RECORDS_AN_ORDER / WINDOW_S
            if "console" in used:
                own.append(used.pop("console"))
            costs[with_console].append(sum(used.values()) / settled_per_s * 1e6)
            print(f"{'with' if with_console else 'without'}: {costs[with_console][-1]:.0f} us an order", flush=True)
    change = compare(costs[False], costs[True])
    print(
        f"\nCPU of an order at {orders_per_s}/s, all processes but the console: {change.before:.0f} us without, "
        f"{change.after:.0f} us with {tabs} tabs open; ratio {change.ratio:.3f}, 99 % within {change.low:.3f} and "
        f"{change.high:.3f} ({pairs} pairs of {WINDOW_S:.0f} s). The console itself: {sum(own) / pairs:.2%} of a core."
    )


@contextmanager
def open_tabs(stack: Stack, tabs: int) -> Iterator[RunningConsole | None]:
    """A console with so many tabs, settled; or none."""
    if not tabs:
        yield None
        return
    console = RunningConsole(stack)
    console.start()
    try:
        streams = [Tab(console.port) for _ in range(tabs)]
        eventually(lambda: all(tab.flows for tab in streams), "every tab gets messages")
        yield console
    finally:
        console.stop()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="console-cost", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help=f"{EVENTS:,} events in a page, in Chromium")
    soaking = commands.add_parser("soak", help="open tabs, on a stack of its own with a load")
    soaking.add_argument("--minutes", type=int, default=10)
    soaking.add_argument("--tabs", type=int, default=20)
    soaking.add_argument("--orders-per-s", type=int, default=100)
    soaking.add_argument(
        "--alone-s", type=float, default=ALONE_S, help="how long to measure without a console first (%(default)s s)"
    )
    ordering = commands.add_parser("order", help="whether an order costs more while tabs are open")
    ordering.add_argument("--pairs", type=int, default=8)
    ordering.add_argument("--tabs", type=int, default=20)
    ordering.add_argument("--orders-per-s", type=int, default=200)
    wanted: Any = parser.parse_args(arguments)
    if wanted.command == "soak":
        soak(wanted.minutes, wanted.tabs, wanted.orders_per_s, wanted.alone_s)
        return 0
    if wanted.command == "order":
        order(wanted.pairs, wanted.tabs, wanted.orders_per_s)
        return 0
    executable = find_browser()
    if executable is None:
        print("console-cost: no Chromium is on PATH (Debian: apt install chromium)", file=sys.stderr)
        return 1
    measure_list(executable)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
