"""Keeps the kernel's IPsec in step with the cluster, while a container here is in an encrypted network."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from pathlib import Path

import msgspec
from msgspec.structs import replace

from sampan.errors import SampanError, Unsupported
from sampan.network.overlay import encryption, schema
from sampan.network.overlay.control import Control
from sampan.network.overlay.encryption import EPOCH_SECONDS, Protection, Station

log = logging.getLogger(__name__)

_NOTHING = Protection((), ())
_RETRY_SECONDS = 5.0
_LOOK_SECONDS = 60.0
"""How often it is seen whether new keys are due: a clock may be put right by hours."""
_MOST_SENT = 20_000
"""Keys that are remembered of one nonce."""


class _Kept(msgspec.Struct, frozen=True):
    """What is in the file: our nonce, and what was sent with since we have it (destination, SPI), also if the kernel
    has it no more: a key that is made again, its counter at zero, would be used twice."""

    nonce: str
    sent: tuple[tuple[str, int], ...] = ()


class Protector:
    """Used from the event loop's thread. `nonce_file`: what is in it counts only while the kernel has its keys."""

    def __init__(self, control: Control, instance: str, nonce_file: Path) -> None:
        self._control = control
        self._reqid = encryption.reqid_of(instance)
        self._nonce_file = nonce_file
        self._known: dict[str, Station] = {}
        self._sent: set[tuple[str, int]] = set()
        self._epoch = 0
        self._applying = asyncio.Lock()
        self._needed = False
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Take the nonce of before if the kernel still sends with it, else a new one."""
        kept = await asyncio.to_thread(self._read)
        await self._take(kept or _Kept(secrets.token_hex(16)))
        self._task = asyncio.create_task(self._follow())

    def _read(self) -> _Kept | None:
        """Blocking."""
        try:
            if not encryption.has_sent(self._reqid, self._control.own.host.address):
                return None
            return msgspec.json.decode(self._nonce_file.read_bytes(), type=_Kept)
        except (Unsupported, FileNotFoundError):
            return None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            log.warning("%s is not used: %s", self._nonce_file, error)
            return None

    async def _take(self, kept: _Kept) -> None:
        self._sent = set(kept.sent)
        await asyncio.to_thread(self._write, kept)
        own = self._control.own
        own.host = replace(own.host, nonce=kept.nonce)
        self._control.changed()

    def _write(self, kept: _Kept) -> None:
        """Blocking. Before anything of it is used: whoever has lost it takes another nonce."""
        temporary = self._nonce_file.with_suffix(".new")
        descriptor = os.open(
            temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        with open(descriptor, "wb") as file:
            file.write(msgspec.json.encode(kept))
        os.replace(temporary, self._nonce_file)

    async def need(self) -> None:
        """A container is about to be in an encrypted network: keys are in the kernel then. Raises `Unsupported`."""
        if not self._needed:
            self._needed = True
            await self._apply()

    def changed(self) -> None:
        """Hosts have come or gone. Those that were there are remembered before they are gone."""
        self._note_hosts()
        self._wake.set()

    async def close(self, *, leave: bool) -> None:
        """`leave`: nothing of this host runs on; the keys go."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if leave and self._needed:
            own = self._control.own.host.address
            await asyncio.to_thread(encryption.apply, _NOTHING, self._reqid, own, set())
            self._nonce_file.unlink(missing_ok=True)

    async def _follow(self) -> None:
        while True:
            try:
                rest = EPOCH_SECONDS - time.time() % EPOCH_SECONDS + 0.1
                async with asyncio.timeout(min(rest, _LOOK_SECONDS)):
                    await self._wake.wait()
            except TimeoutError:
                if self._epoch == int(time.time() // EPOCH_SECONDS):
                    continue
                log.debug("the keys of encrypted networks change")
            self._wake.clear()
            if not self._needed:
                continue
            try:
                await self._apply()
            except (SampanError, OSError) as error:
                log.warning("encrypted networks could not be brought up to date: %s", error)
                await asyncio.sleep(_RETRY_SECONDS)
                self._wake.set()

    async def _apply(self) -> None:
        async with (
            self._applying
        ):  # what one has noted as sent with, the other would not find in the kernel yet
            await self._apply_alone()

    async def _apply_alone(self) -> None:
        own = self._control.own.host
        secret = self._control.secret
        wanted = _NOTHING
        moment = time.time()
        if secret:
            station = Station(own.id, own.address, own.nonce)
            wanted = encryption.protection(secret, station, self._stations(), moment, self._reqid)
        await self._note_sent(own.nonce, encryption.outgoing(wanted, own.address))
        done = await asyncio.to_thread(encryption.apply, wanted, self._reqid, own.address, self._sent)
        self._epoch = int(moment // EPOCH_SECONDS)
        if not done or len(self._sent) > _MOST_SENT:
            if not done:
                log.warning("keys of encrypted networks can not be used again: this host takes new ones")
            await self._take(_Kept(secrets.token_hex(16)))
            self._wake.set()

    async def _note_sent(self, nonce: str, outgoing: set[tuple[str, int]]) -> None:
        """On disk before it is in the kernel."""
        if not outgoing <= self._sent:
            await asyncio.to_thread(self._write, _Kept(nonce, tuple(sorted(self._sent | outgoing))))

    def _note_hosts(self) -> None:
        own = self._control.own.host
        for host in self._control.view.hosts.values():
            if host.nonce and host.id != own.id and host.address != own.address:
                # Those that are there come last: of two with one address the last counts.
                self._known.pop(host.id, None)
                self._known[host.id] = Station(host.id, host.address, host.nonce)
        while len(self._known) > schema.MAX_HOSTS:
            del self._known[next(iter(self._known))]

    def _stations(self) -> list[Station]:
        """Hosts that are there; and of those that are not heard of, the ones that have containers."""
        self._note_hosts()
        view = self._control.view
        used = {claim.host for claims in view.claims.values() for claim in claims.values() if claim.endpoint}
        for host_id in self._known.keys() - view.hosts.keys() - used:
            del self._known[host_id]
        by_address = {station.address: station for station in self._known.values()}
        return list(by_address.values())
