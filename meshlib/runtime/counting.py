"""What a process counts with: tokens of rate limits, requests under way. Kept over updates of the configuration."""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING

from meshlib.config.rate_limit import LocalRateLimit
from meshlib.inbound.buckets import Buckets
from meshlib.inbound.rate_limit import Counting
from meshlib.runtime.node import node_cluster

if TYPE_CHECKING:
    from meshlib.config.snapshot import Snapshot
    from meshlib.outbound.balance import Balancers
    from meshlib.runtime.settings import Settings


def counting(settings: Settings) -> Counting:
    """For the rate limits of our port; its buckets are full."""
    return Counting(Buckets(time.monotonic, threading.Lock()), random.random, node_cluster(settings))


def keep(balancers: Balancers, buckets: Buckets, snapshot: Snapshot) -> None:
    """What was counted for a configuration that has gone is forgotten."""
    balancers.keep(snapshot.clusters)
    filters = (one for listener in snapshot.inbound.values() for one in listener.filters)
    buckets.keep(one for one in filters if isinstance(one, LocalRateLimit))
