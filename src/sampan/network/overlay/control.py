"""The control plane: keeps a host's part of the store as it should be, and its view of the rest up to date.

A session begins by reading everything and goes on by hearing of changes; what this host has is written whenever store
and wish differ, however that came about. When the store does not answer, the view stays as it was and so does all
that was made by it; sessions are tried again until one succeeds. What must not be lost is in `cache` on disk.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NoReturn

import msgspec

from sampan.errors import Unavailable
from sampan.network.overlay.cache import Cache, Cached
from sampan.network.overlay.own import Leases, Own, Step, conflicts, steps
from sampan.network.overlay.schema import Host, Keys, Network
from sampan.network.overlay.store import (
    MAX_BYTES,
    Compacted,
    Condition,
    Delete,
    Kind,
    LeaseEnded,
    Operation,
    Put,
    Store,
)
from sampan.network.overlay.view import View

log = logging.getLogger(__name__)

_RETRY = (0.2, 5.0)
"""Seconds between two tries of a session: the first, the longest."""
_SAVE_SECONDS = 1.0
"""How far the cache may be behind."""


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """Seconds without a sign of a host until its names go, and until its addresses are free for others."""

    host: int = 30
    addresses: int = 3600


@dataclass(frozen=True, slots=True)
class Status:
    """`since`: seconds since the epoch. `error`: why there is no connection."""

    connected: bool
    since: float
    error: str = ""


def _nothing(_what: object) -> None:
    return


class Control:
    """Used from the event loop's thread."""

    def __init__(
        self,
        store: Store,
        keys: Keys,
        host: Host,
        cache: Cache,
        lifetimes: Lifetimes = Lifetimes(),
        *,
        secret: bytes = b"",
    ) -> None:
        """`secret`: what keys of encrypted networks are derived from, where people gave one; else the store has it."""
        self._secret = secret
        self.store = store
        self.keys = keys
        self.view = View(keys)
        self.own = Own(host)
        self.status = Status(False, time.time(), "it was not asked yet")
        self.on_change: Callable[[frozenset[str]], None] = _nothing
        """Told the networks that something changed in; "" among them: hosts, or the connection."""
        self.known_networks: Callable[[], Iterable[Network]] = tuple
        """The networks that this host has seen, for a store that has lost them."""
        self._cache = cache
        self._lifetimes = lifetimes
        self._leases: Leases | None = None
        self._identity = ""
        self._written: set[str] = set()
        """Keys that we have written and not heard of since."""
        self._dirty = asyncio.Event()
        self._unsaved = asyncio.Event()
        self._ready = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._told: dict[tuple[str, str], str] = {}

    async def start(self, *, seconds: float) -> None:
        """Begin with what the cache has; wait this long for the store, and go on without it."""
        cached = await asyncio.to_thread(self._cache.read)
        self._identity, self._leases = cached.identity, cached.leases
        self.view.replace(cached.snapshot)
        before = self.view.hosts.get(self.own.host.id)
        if before is not None and before.address != self.own.host.address:
            self._leases = (
                None  # the host has moved; or it is a copy, and the leases are those of the other one
            )
        for network, claims in self.view.claims.items():
            for address, claim in claims.items():
                if claim.host == self.own.host.id and claim.mac:
                    self.own.claim(network, address)
                elif claim.host == self.own.host.id:
                    self.own.reserve(network, address)
        self._tell([""])  # who was there when the last engine ended
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(self._ended)
        try:
            await asyncio.wait_for(self._ready.wait(), seconds)
        except TimeoutError:
            log.warning("the engine starts without its cluster store: %s", self.status.error)

    async def close(self, *, leave: bool) -> None:
        """`leave`: nothing of this host runs on; what it has in the store goes at once, if it can be reached."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if leave and self._leases is not None and self.status.connected:
            try:
                await self.store.revoke(self._leases.short)
                await self.store.revoke(self._leases.long)
                self._leases = None
            except Unavailable as error:
                log.warning("what this host has in the cluster store stays until its time is over: %s", error)
        await self._save()
        await self.store.close()

    def complete(self) -> None:
        """Every container of this host has been announced."""
        self.own.complete = True
        self._dirty.set()

    def changed(self) -> None:
        """`own` has been changed: the store is to be told."""
        self._dirty.set()

    @property
    def secret(self) -> bytes:
        """b"" before the store was ever read."""
        return self._secret or self.view.secret

    def require(self) -> None:
        """Raises `Unavailable` while there is no connection."""
        if not self.status.connected:
            raise Unavailable(
                f"the cluster store {self.store.name} does not answer: {self.status.error}",
                hint="Networks of driver overlay go on as they are; what needs the store has to wait for it.",
            )

    @property
    def long_lease(self) -> int:
        """The lease of addresses. Raises `Unavailable` before the first session."""
        if self._leases is None:
            self.require()
            raise Unavailable("the cluster store has given no lease yet")
        return self._leases.long

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Something was not foreseen: it is said, also by `info`, and networks go on as they are."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the control plane of overlay networks has stopped", exc_info=error)
            self._set_status(False, f"the control plane has stopped: {error!r}"[:500])

    # Sessions

    async def _run(self) -> None:
        wait, longest = _RETRY
        while True:
            began = time.monotonic()
            try:
                await self._session()
            except Compacted as error:
                log.info("cluster store: %s; everything is read again", error)
            except Unavailable as error:
                self._set_status(False, error.message)
            if time.monotonic() - began > longest:
                wait = _RETRY[0]
            await asyncio.sleep(wait)
            wait = min(wait * 2, longest)

    async def _session(self) -> NoReturn:
        await self._take_leases()
        await self._meet()
        self._set_status(True)
        self._ready.set()
        self._dirty.set()
        await self._save()
        work: Sequence[Awaitable[None]] = (
            self._listen(),
            self._keep_leases(),
            self._write(),
            self._keep_cache(),
        )
        tasks = [asyncio.ensure_future(one) for one in work]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
            raise Unavailable("the session ended")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _take_leases(self) -> None:
        """Those of before if they have not ended: then nothing has to be written again."""
        known = self._leases
        if known is not None and await self.store.keep(known.short) and await self.store.keep(known.long):
            return
        self._leases = Leases(
            await self.store.grant(self._lifetimes.host), await self.store.grant(self._lifetimes.addresses)
        )

    async def _meet(self) -> None:
        """Read everything; give a store that is new, or has lost its data, what it needs."""
        for _ in range(3):
            snapshot = await self.store.read(self.keys.root)
            fresh = View(self.keys, quiet=True)
            fresh.replace(snapshot)
            missing = self._missing(fresh)
            if not missing and fresh.identity and (fresh.secret or self._secret):
                break
            await self._publish(missing)
            identity = self._identity or secrets.token_hex(16)
            await self._put_if_absent(self.keys.identity, identity.encode())
            if not self._secret:
                await self._put_if_absent(self.keys.secret, secrets.token_hex(32).encode())
        self._check_alone(fresh)
        self._written.clear()
        touched = self.view.replace(snapshot)
        self._identity = self.view.identity
        self._tell(touched | {""})

    def _check_alone(self, view: View) -> None:
        """Two engines with one id would take everything away from each other, without end. Raises `Unavailable`."""
        twin = view.hosts.get(self.own.host.id)
        if twin is not None and twin.address != self.own.host.address:
            raise Unavailable(
                f"host {twin.name} at {twin.address} has the id of this engine: one is a copy of the other "
                "(or this host had that address a moment ago)"
            )

    def _missing(self, fresh: View) -> list[Network]:
        """Networks that the store should have: all, if it is not the store that we knew; else those in use here."""
        lost = bool(self._identity) and fresh.identity != self._identity
        if lost:
            log.warning(
                "cluster store: %s has lost its data; it is told what this host knows", self.store.name
            )
        return [
            network
            for network in self.known_networks()
            if network.id not in fresh.networks
            and self.keys.network(network.id) not in fresh.rejected
            and (lost or self.own.active(network.id))
        ]

    async def _publish(self, networks: Sequence[Network]) -> None:
        for network in networks:
            if not await self.store.commit(*self.creation(network)):
                log.error("network %s: another one has its name or number in the cluster store", network.name)

    def creation(self, network: Network) -> tuple[list[Condition], list[Operation]]:
        """The transaction that makes a network, if nobody has its id, name and number."""
        body, holder = msgspec.json.encode(network), network.id.encode()
        puts = (
            Put(self.keys.network(network.id), body),
            Put(self.keys.name(network.name), holder),
            Put(self.keys.vni(network.vni), holder),
        )
        return [Condition(Kind.ABSENT, put.key) for put in puts], list(puts)

    def removal(self, network: Network) -> list[Operation]:
        return [
            Delete(self.keys.network(network.id)),
            Delete(self.keys.name(network.name)),
            Delete(self.keys.vni(network.vni)),
            Delete(self.keys.addresses(network.id), prefix=True),
            Delete(self.keys.endpoints(network.id), prefix=True),
        ]

    async def _put_if_absent(self, key: str, value: bytes) -> None:
        await self.store.commit([Condition(Kind.ABSENT, key)], [Put(key, value)])

    async def _listen(self) -> None:
        async for changes in self.store.watch(self.keys.root, self.view.revision + 1):
            touched = self.view.apply(changes.revision, changes.changes)
            if self.view.size > MAX_BYTES:
                raise Unavailable(
                    f"{self.store.name} has more than {MAX_BYTES >> 20} MiB below {self.keys.root}"
                )
            for change in changes.changes:
                self._written.discard(change.key)
            if changes.changes:
                self._dirty.set()
                self._unsaved.set()
                self._tell(touched)

    async def _keep_cache(self) -> None:
        while True:
            await self._unsaved.wait()
            await asyncio.sleep(_SAVE_SECONDS)  # so that many changes are written once
            self._unsaved.clear()
            await self._save()

    async def _keep_leases(self) -> None:
        while True:
            await asyncio.sleep(self._lifetimes.host / 4)
            leases = self._leases
            if leases is None:
                return
            if not (await self.store.keep(leases.short) and await self.store.keep(leases.long)):
                await self._begin_again()

    async def _begin_again(self) -> None:
        log.warning("cluster store: this host was taken for gone; what it has is written again")
        await asyncio.sleep(_RETRY[0])  # a store that always says so is not asked without end
        await self._take_leases()
        self._written.clear()
        self._dirty.set()

    async def _write(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            leases = self._leases
            if leases is None:
                return
            self._check_alone(self.view)
            try:
                for step in list(steps(self.own, self.view, self.keys, leases, self._written)):
                    await self._perform(step)
            except LeaseEnded:
                await self._begin_again()
            self._tell_conflicts()

    async def _perform(self, step: Step) -> None:
        """What was written is noted before: it may be heard of before the answer comes."""
        keys = {operation.key for operation in step.operations}
        self._written |= keys
        if not await self.store.commit(step.conditions, step.operations):
            self._written -= keys

    def _tell_conflicts(self) -> None:
        found = conflicts(self.own, self.view)
        for (network, address), host in found.items():
            if (network, address) not in self._told:
                log.error(
                    "network %s: a container here has %s, which host %s has taken over while this one was away; "
                    "nobody but this host's own containers reaches it: restart it",
                    network[:12],
                    address,
                    host[:12],
                )
        self._told = found

    def _tell(self, touched: Iterable[str]) -> None:
        found = frozenset(touched)
        if found:
            self.on_change(found)

    def _set_status(self, connected: bool, error: str = "") -> None:
        if connected != self.status.connected or (not connected and not self._ready.is_set()):
            if connected:
                log.info("cluster store %s answers", self.store.name)
            else:
                log.warning("cluster store %s does not answer: %s", self.store.name, error)
            self.status = Status(connected, time.time(), error)
            self._tell([""])
        elif error:
            self.status = Status(connected, self.status.since, error)

    async def _save(self) -> None:
        cached = Cached(self._identity, self._leases, self.view.revision, dict(self.view.entries))
        await asyncio.to_thread(self._cache.write, cached)
