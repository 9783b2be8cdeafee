"""The settings of the limits of requests."""

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from common.config.env import Env
from common.http.limits.buckets import Rate


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """How many requests one client may send to a process; None for no limit. See `common.http.limits`."""

    customer: Rate | None = None
    """For a principal that is only a customer."""
    machine: Rate | None = None
    """For a principal with another scope."""
    address: Rate | None = None
    failures: Rate | None = None
    """For credentials that are not valid, of one address."""
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    """Proxies whose `X-Forwarded-For` is believed."""


def request_limits(env: Env) -> RequestLimits:
    return RequestLimits(
        customer=env.rate("LIMIT_CUSTOMER", "50/200"),
        machine=env.rate("LIMIT_MACHINE", "10000/20000"),
        address=env.rate("LIMIT_ADDRESS", "10000/20000"),
        failures=env.rate("LIMIT_FAILURES", "1/20"),
        trusted_proxies=env.networks("TRUSTED_PROXIES"),
    )
