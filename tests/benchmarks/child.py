"""The process that a benchmark starts for each measurement; what to do is in the environment."""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from collections.abc import Callable

from tests.benchmarks.base import Peer, order, say
from tests.benchmarks.catalogue import VARIANTS


def enqueue(peer: Peer) -> None:
    ns = range(order.count)
    ways: dict[str, Callable[[], object]] = {
        "each": lambda: peer.enqueue_each(order.dsn, ns),
        "bulk": lambda: peer.enqueue_bulk(order.dsn, ns),
        "many": lambda: peer.enqueue_many(order.dsn, ns),
        "paced": lambda: peer.enqueue_paced(order.dsn, ns, order.interval),
    }
    began = time.process_time()
    result = ways[order.operation]()
    say("RESULT", result=result, cpu=time.process_time() - began)


def main() -> None:
    # The queues that are compared say nothing of a job; sqla_jobs has a line for each, see its peer.
    logging.basicConfig(level=logging.ERROR)
    warnings.filterwarnings("ignore")
    peer = VARIANTS[order.variant].peer()
    if order.operation == "fill":
        peer.install(order.dsn)
        if order.count:
            peer.enqueue_bulk(order.dsn, range(order.count))
        say("RESULT", result=None, cpu=0.0)
    elif order.operation == "work":
        peer.work(order.dsn)
        raise SystemExit(f"the worker of {order.variant} ended")
    else:
        enqueue(peer)
    sys.stdout.flush()
    os._exit(0)  # no queue's exit handlers: a pool of one may wait for its threads


if __name__ == "__main__":
    main()
