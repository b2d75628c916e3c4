"""How many requests one address, or one link, may send: token buckets in this process's memory.

They protect the server from load. What must hold across processes, failed logins, is counted in the
database (userstudy/app/logins.py).
"""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Limit", "Limiter", "address_group"]


@dataclass(frozen=True)
class Limit:
    """A steady rate with room for bursts.

    Args:
        per_second: requests a second in the long run.
        burst: requests at once after a pause.
    """

    per_second: float
    burst: float


class Limiter:
    """Counts requests by key, for the keys seen last.

    Args:
        limit: what each key may do.
        keys: how many keys are remembered; forgetting one gives it a new burst.
        clock: seconds, ever rising.
    """

    def __init__(self, limit: Limit, keys: int = 20_000, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self._keys = keys
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, key: str) -> float:
        """Count one request; return 0 where it is within the limit, else the seconds until one is."""
        now = self._clock()
        left, since = self._left.pop(key, (self.limit.burst, now))
        left = min(self.limit.burst, left + (now - since) * self.limit.per_second)
        allowed = left >= 1
        self._left[key] = (left - 1 if allowed else left, now)
        if len(self._left) > self._keys:
            self._left.popitem(last=False)
        return 0.0 if allowed else (1 - left) / self.limit.per_second


def address_group(address: str) -> str:
    """Return what is counted as one address: of IPv6 the /64 network, which one household has."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 6:
        mapped = parsed.ipv4_mapped
        return str(mapped or ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))
    return str(parsed)
