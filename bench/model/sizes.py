"""How much of everything a rate of orders takes: processes, brokers, databases, bytes, money. No simulation.

Measured figures come from the full run (docs/evidence/speed/full-run.md). Assumptions have their names here, so that a
reader can put in others: what a machine is filled to, what a primary and a broker bear, prices.
"""

from math import ceil
from typing import Final

from msgspec import Struct

# Measured on this machine, by the full run.
CPU_US: Final = {"api": 89.0, "saga": 76.0, "payment": 45.0, "inventory": 47.0, "broker": 69.0, "postgres": 84.0}
"""Of an order at the highest rate that two cores hold."""
ALONE_PER_S: Final = {"api": 17_449, "payment": 26_256, "inventory": 33_515, "saga": 7_603}
"""What one process does alone: an api while consumers are stopped, a consumer on a backlog."""
LOG_BYTES: Final = 2_156
TABLE_BYTES: Final = 1_963
WAL_BYTES: Final = 4_370
"""Of an order, in all."""

# Assumed.
COPIES: Final = 3
FILLED: Final = 0.5
"""The share of its capacity that a process or a core is used to: the rest is for peaks and for catching up."""
FOLLOWER_SHARE: Final = 0.5
"""What a further copy costs a broker, as a share of the first one."""
PRIMARY_PER_S: Final = {"payment": 20_000, "inventory": 20_000, "order": 10_000}
"""Orders a second that a database's primary bears for years, with its indexes out of memory."""
BROKER_BYTES_PER_S: Final = 100e6
"""What a broker writes all the time, its part of all copies."""
DAYS_IN_LOG: Final = 7
DAYS_IN_TABLES: Final = 90
PARTITIONS_MIN: Final = 6

# Prices, US dollars; of the size that large providers ask for on demand.
CORE_HOUR: Final = 0.045
GIGABYTE_MONTH: Final = 0.08
GIGABYTE_BETWEEN_ZONES: Final = 0.02
HOURS_A_MONTH: Final = 730
SECONDS_A_MONTH: Final = HOURS_A_MONTH * 3_600


class Size(Struct, frozen=True, kw_only=True):
    """What a rate takes. Counts of processes, primaries and cores; terabytes; dollars a month."""

    rate: float
    apis: int
    payments: int
    inventories: int
    sagas: int
    partitions: int
    brokers: int
    primaries: dict[str, int]
    cores: int
    log_tb: float
    """All copies, for `DAYS_IN_LOG`."""
    table_tb: float
    """A primary and a standby, for `DAYS_IN_TABLES`."""
    cores_cost: float
    disks_cost: float
    zones_cost: float

    @property
    def cost(self) -> float:
        return self.cores_cost + self.disks_cost + self.zones_cost

    @property
    def cost_of_a_million(self) -> float:
        """Dollars for a million orders."""
        return self.cost / (self.rate * SECONDS_A_MONTH) * 1e6


def size(rate: float) -> Size:
    """What so many orders a second take, all day."""
    instances = {name: max(2, ceil(rate / (per_s * FILLED))) for name, per_s in ALONE_PER_S.items()}
    log_bytes_per_s = rate * LOG_BYTES
    brokers = max(COPIES, ceil(log_bytes_per_s * COPIES / BROKER_BYTES_PER_S))
    primaries = {name: ceil(rate / per_s) for name, per_s in PRIMARY_PER_S.items()}
    consumers = max(instances[name] for name in ("payment", "inventory", "saga"))
    broker_us = CPU_US["broker"] * (1 + FOLLOWER_SHARE * (COPIES - 1))
    us = sum(CPU_US.values()) - CPU_US["broker"] + broker_us
    # Each process and each server has a core at least, standbys too.
    least = sum(instances.values()) + brokers + 2 * sum(primaries.values())
    cores = max(least, ceil(rate * us / 1e6 / FILLED))
    log_tb = log_bytes_per_s * COPIES * DAYS_IN_LOG * 86_400 / 1e12
    table_tb = rate * TABLE_BYTES * 2 * DAYS_IN_TABLES * 86_400 / 1e12
    # Copies of the log, the stream to the standbys, and two thirds of what clients send and consumers read.
    crossing = rate * (LOG_BYTES * (COPIES - 1) + WAL_BYTES + LOG_BYTES * 4 * 2 / 3)
    return Size(
        rate=rate,
        apis=instances["api"],
        payments=instances["payment"],
        inventories=instances["inventory"],
        sagas=instances["saga"],
        partitions=max(PARTITIONS_MIN, 6 * ceil(consumers / 6)),
        brokers=brokers,
        primaries=primaries,
        cores=cores,
        log_tb=log_tb,
        table_tb=table_tb,
        cores_cost=cores * CORE_HOUR * HOURS_A_MONTH,
        disks_cost=(log_tb + table_tb) * 1_000 * GIGABYTE_MONTH,
        zones_cost=crossing * SECONDS_A_MONTH / 1e9 * GIGABYTE_BETWEEN_ZONES,
    )


def table(rates: tuple[float, ...] = (1_000, 10_000, 100_000, 1_000_000)) -> str:
    """The sizes of some rates as a table of Markdown, as docs/SCALING.md shows it."""
    sizes = [size(rate) for rate in rates]
    rows = {
        "orders a second": [f"{s.rate:,.0f}" for s in sizes],
        "order apis": [f"{s.apis}" for s in sizes],
        "instances of payment / inventory / saga": [f"{s.payments} / {s.inventories} / {s.sagas}" for s in sizes],
        "partitions": [f"{s.partitions}" for s in sizes],
        "brokers": [f"{s.brokers}" for s in sizes],
        "primaries for payment / inventory / order": [" / ".join(map(str, s.primaries.values())) for s in sizes],
        "cores, at least": [f"{s.cores:,}" for s in sizes],
        "into the log, each copy": [f"{s.rate * LOG_BYTES / 1e6:,.1f} MB/s" for s in sizes],
        "write-ahead log of all databases": [f"{s.rate * WAL_BYTES / 1e6:,.1f} MB/s" for s in sizes],
        f"log for {DAYS_IN_LOG} days, {COPIES} copies": [f"{s.log_tb:,.1f} TB" for s in sizes],
        f"tables for {DAYS_IN_TABLES} days, with a standby": [f"{s.table_tb:,.0f} TB" for s in sizes],
        "cores, a month": [f"${s.cores_cost:,.0f}" for s in sizes],
        "disks, a month": [f"${s.disks_cost:,.0f}" for s in sizes],
        "traffic between zones, a month": [f"${s.zones_cost:,.0f}" for s in sizes],
        "a million orders": [f"${s.cost_of_a_million:,.2f}" for s in sizes],
    }
    header, *body = (f"| {name} | " + " | ".join(cells) + " |" for name, cells in rows.items())
    return "\n".join([header, "|---|" + "---:|" * len(sizes), *body])
