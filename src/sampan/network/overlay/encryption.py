"""Keys of encrypted overlay networks, and what of them has to be in the kernel.

Every host derives the keys between itself and each other host from the cluster's secret, both hosts' nonces and the
time, so none is ever sent, and new ones need nobody's help: a host that is cut off from the store changes keys with
the others. A sender's counter begins anew with each key, so a key must never be used twice (RFC 4106, section 3.1): a
host takes a new nonce whenever its kernel has forgotten what it has sent with, and leaves a key for good when its time
is over.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass

from sampan.linux.netlink_xfrm import IN, OUT, Association, Policy, XfrmSocket
from sampan.network.overlay.driver import SECURE_PORT

EPOCH_SECONDS = 12 * 3600
"""How long a key is used. A host understands those of the epochs before and after too, so clocks may be hours apart."""
_KEY_BYTES = 36
_FIRST_SPI = 0x100  # RFC 4303, section 2.1: smaller ones are reserved


@dataclass(frozen=True, slots=True)
class Station:
    """A host as the keys know it."""

    id: str
    address: str
    nonce: str


@dataclass(frozen=True, slots=True)
class Protection:
    """What has to be in the kernel."""

    associations: tuple[Association, ...]
    policies: tuple[Policy, ...]


def reqid_of(instance: str) -> int:
    """By which an engine knows what is its own; the kernel reserves numbers from 2^31 on."""
    return int.from_bytes(hashlib.sha256(f"sampan {instance}".encode()).digest()[:4], "big") & 0x7FFFFFFF | 1


def association(secret: bytes, sender: Station, receiver: Station, epoch: int, reqid: int) -> Association:
    """HKDF (RFC 5869) of the secret."""
    parts = (
        sender.id,
        sender.nonce,
        sender.address,
        receiver.id,
        receiver.nonce,
        receiver.address,
        str(epoch),
    )
    about = b"".join(len(part).to_bytes(2, "big") + part.encode() for part in parts)
    base = hmac.digest(b"sampan overlay ESP", secret, "sha256")
    first = hmac.digest(base, about + b"\1", "sha256")
    made = first + hmac.digest(base, first + about + b"\2", "sha256")
    spi = int.from_bytes(made[_KEY_BYTES : _KEY_BYTES + 4], "big") % (0xFFFFFFFF - _FIRST_SPI) + _FIRST_SPI
    return Association(sender.address, receiver.address, spi, reqid, made[:_KEY_BYTES])


def protection(secret: bytes, own: Station, peers: Iterable[Station], now: float, reqid: int) -> Protection:
    """Pure. `now`: seconds since the epoch."""
    epoch = int(now // EPOCH_SECONDS)
    associations: list[Association] = []
    policies: list[Policy] = []
    for peer in peers:
        for near in (epoch - 1, epoch, epoch + 1):
            associations.append(association(secret, peer, own, near, reqid))
        associations.append(association(secret, own, peer, epoch, reqid))
        policies.append(Policy(own.address, peer.address, SECURE_PORT, reqid, OUT))
        policies.append(Policy(peer.address, own.address, SECURE_PORT, reqid, IN))
    return Protection(tuple(associations), tuple(policies))


def outgoing(wanted: Protection, address: str) -> set[tuple[str, int]]:
    """What the host of this address would send with, by destination and number."""
    return {(one.destination, one.spi) for one in wanted.associations if one.source == address}


def apply(wanted: Protection, reqid: int, own_address: str, sent: set[tuple[str, int]]) -> bool:
    """Blocking: exactly this is in the kernel of the calling thread's namespace, of what carries this `reqid`.

    `sent`: the associations that this host has sent with before, by destination and number; new ones are added to it.
    False, and nothing is changed, when the kernel has lost one of them: then its key must not be used again.
    Policies come first and go last: no packet leaves in the clear meanwhile. Raises `Unsupported`.
    """
    with XfrmSocket() as xfrm:
        there = {(one.destination, one.spi) for one in xfrm.associations(reqid)}
        sending = outgoing(wanted, own_address)
        if sending & sent - there:
            return False
        sent |= sending
        known_policies = set(xfrm.policies(reqid))
        for policy in wanted.policies:
            if policy not in known_policies:
                xfrm.set_policy(policy)
        known = {(one.destination, one.spi): one for one in xfrm.associations(reqid)}
        for one in wanted.associations:
            if (one.destination, one.spi) not in known:
                xfrm.add(one)
        keep = {(one.destination, one.spi) for one in wanted.associations}
        for place, one in known.items():
            if place not in keep:
                xfrm.delete(one)
        for policy in known_policies - set(wanted.policies):
            xfrm.delete_policy(policy)
    return True


def check_kernel() -> None:
    """Blocking. Raises `Unsupported` with the reason when this host's kernel can not encrypt."""
    trial = Association("192.0.2.1", "192.0.2.2", 0x53414D50, reqid_of("trial"), bytes(_KEY_BYTES))
    with XfrmSocket() as xfrm:
        xfrm.add(trial)
        xfrm.delete(trial)


def has_sent(reqid: int, address: str) -> bool:
    """Blocking: whether the kernel still has what this host sends with; if not, its nonce is used up."""
    with XfrmSocket() as xfrm:
        return any(one.source == address for one in xfrm.associations(reqid))
