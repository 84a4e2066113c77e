"""Keeps the kernel's IPsec in step with the cluster, while a container here is in an encrypted network."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from pathlib import Path

from msgspec.structs import replace

from sampan.errors import SampanError, Unsupported
from sampan.network.overlay import encryption
from sampan.network.overlay.control import Control
from sampan.network.overlay.encryption import EPOCH_SECONDS, Protection, Station

log = logging.getLogger(__name__)

_NOTHING = Protection((), ())
_RETRY_SECONDS = 5.0


class Protector:
    """Used from the event loop's thread. `nonce_file`: what is in it counts only while the kernel has its keys."""

    def __init__(self, control: Control, instance: str, nonce_file: Path) -> None:
        self._control = control
        self._reqid = encryption.reqid_of(instance)
        self._nonce_file = nonce_file
        self._known: dict[str, Station] = {}
        self._sent: set[tuple[str, int]] = set()
        self._needed = False
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Take the nonce of before if the kernel still sends with it, else a new one."""
        nonce = await asyncio.to_thread(self._kept_nonce)
        await self._take_nonce(nonce or secrets.token_hex(16))
        self._task = asyncio.create_task(self._follow())

    def _kept_nonce(self) -> str:
        """Blocking."""
        try:
            has_sent = encryption.has_sent(self._reqid, self._control.own.host.address)
            return self._nonce_file.read_text() if has_sent else ""
        except (Unsupported, FileNotFoundError):
            return ""

    async def _take_nonce(self, nonce: str) -> None:
        await asyncio.to_thread(self._write_nonce, nonce)
        own = self._control.own
        own.host = replace(own.host, nonce=nonce)
        self._control.changed()

    def _write_nonce(self, nonce: str) -> None:
        """Blocking. Before it is used: whoever has lost it takes another one."""
        descriptor = os.open(
            self._nonce_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        with open(descriptor, "w") as file:
            file.write(nonce)

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
                async with asyncio.timeout(EPOCH_SECONDS - time.time() % EPOCH_SECONDS + 0.1):
                    await self._wake.wait()
            except TimeoutError:
                log.debug("the keys of encrypted networks change")
            self._wake.clear()
            if not self._needed:
                continue
            try:
                await self._apply()
            except SampanError as error:
                log.warning("encrypted networks could not be brought up to date: %s", error)
                await asyncio.sleep(_RETRY_SECONDS)
                self._wake.set()

    async def _apply(self) -> None:
        own = self._control.own.host
        secret = self._control.secret
        wanted = _NOTHING
        if secret:
            station = Station(own.id, own.address, own.nonce)
            wanted = encryption.protection(secret, station, self._stations(), time.time(), self._reqid)
        done = await asyncio.to_thread(encryption.apply, wanted, self._reqid, own.address, self._sent)
        if not done:
            log.warning("the kernel has lost keys of encrypted networks: this host takes new ones")
            self._sent.clear()
            await self._take_nonce(secrets.token_hex(16))
            self._wake.set()

    def _note_hosts(self) -> None:
        own = self._control.own.host
        for host in self._control.view.hosts.values():
            if host.nonce and host.id != own.id and host.address != own.address:
                self._known[host.id] = Station(host.id, host.address, host.nonce)

    def _stations(self) -> list[Station]:
        """Hosts that are there; and of those that are not heard of, the ones that have containers."""
        self._note_hosts()
        view = self._control.view
        used = {claim.host for claims in view.claims.values() for claim in claims.values() if claim.endpoint}
        for host_id in self._known.keys() - view.hosts.keys() - used:
            del self._known[host_id]
        by_address = {station.address: station for station in self._known.values()}
        return list(by_address.values())
