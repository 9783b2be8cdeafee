"""The faults: each is a context that injects on entering and heals on leaving.

It yields a witness, called before the healing, which returns what shows that the fault took effect, "" if nothing does.
"""

from tests.chaos.faults import databases, disks, log, network, processes
from tests.chaos.faults.fault import Inject, NotPossible

INJECT: dict[str, Inject] = {
    "kill-api": processes.kill,
    "kill-saga": processes.kill,
    "kill-payment": processes.kill,
    "kill-inventory": processes.kill,
    "kill-postgres": processes.kill_server,
    "kill-kafka": processes.kill_server,
    "freeze-past-session": processes.freeze,
    "freeze-in-transaction": processes.freeze_in_transaction,
    "freeze-server": processes.freeze,
    "stutter": processes.stutter,
    "rebalance-storm": processes.rebalance_storm,
    "two-owners": processes.two_owners,
    "wrong-clock": processes.wrong_clock,
    "cut-database": network.to_databases(network.cut),
    "cut-kafka": network.to_kafka(network.cut),
    "reset-connections": network.to_both(network.reset),
    "delay-database": network.to_databases(network.delay),
    "delay-kafka": network.to_kafka(network.delay),
    "throttle-database": network.to_databases(network.throttle),
    "throttle-kafka": network.to_kafka(network.throttle),
    "half-open-database": network.to_databases(network.half_open),
    "half-open-kafka": network.to_kafka(network.half_open),
    "deadlock": databases.deadlock,
    "serialization-failure": databases.serialization_failure,
    "lock-timeout": databases.lock_timeout,
    "terminate-sessions": databases.terminate_sessions,
    "connections-exhausted": databases.connections_exhausted,
    "slow-disk": disks.slow_disk,
    "disk-full": disks.disk_full,
    "poison": log.poison,
    "events-again": log.events_again,
    "offsets-rewound": log.offsets_rewound,
}

__all__ = ["INJECT", "Inject", "NotPossible"]
