"""Measurements of networks; each of one contestant."""

from __future__ import annotations

import measure
from engines import Contestant


def create_and_remove_seconds(each: Contestant) -> float:
    """`network create` and `network rm` of one network, with a bridge, rules and a subnet that the engine chooses."""

    def work() -> None:
        each.run("network", "create", "bench-net")
        each.run("network", "rm", "bench-net")

    return measure.seconds(work)
