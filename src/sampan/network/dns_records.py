"""Who is who in the networks of an engine, as its name server has been told. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sampan.network.model import Member, Outlook


@dataclass(frozen=True, slots=True)
class _Index:
    """One network's: name -> addresses in the order of their coming, address -> name."""

    addresses: Mapping[str, tuple[str, ...]]
    pointers: Mapping[str, str]


class Directory:
    """The members of all networks."""

    def __init__(self) -> None:
        self._members: dict[str, dict[str, Member]] = {}
        self._indexes: dict[str, _Index] = {}

    def tell(self, network: str, container: str, member: Member | None) -> None:
        """Add or replace a member; None removes it."""
        members = self._members.setdefault(network, {})
        if member is not None:
            members[container] = member
        else:
            members.pop(container, None)
        if not members:
            del self._members[network]
        self._indexes.pop(network, None)

    def addresses(self, outlook: Outlook, name: str) -> tuple[str, ...] | None:
        """Of a name (lower-case, without the last dot); None when it is nobody's, () when who has it has no address."""
        for link, target in outlook.links:
            if link == name:
                name = target
                break
        for network in outlook.networks:
            found = self._index(network).addresses.get(name)
            if found is not None:
                return found
        return None

    def pointer(self, outlook: Outlook, address: str) -> str | None:
        """The name of who has this address (in Python's own spelling)."""
        for network in outlook.networks:
            found = self._index(network).pointers.get(address)
            if found is not None:
                return found
        return None

    def _index(self, network: str) -> _Index:
        found = self._indexes.get(network)
        if found is None:
            found = self._indexes[network] = _index(self._members.get(network, {}))
        return found


def _index(members: Mapping[str, Member]) -> _Index:
    addresses: dict[str, list[str]] = {}
    pointers: dict[str, str] = {}
    for member in members.values():
        for name in member.names:
            found = addresses.setdefault(name, [])
            found.extend(address for address in member.addresses if address not in found)
        for address in member.addresses:
            pointers[address] = member.pointer
    return _Index({name: tuple(found) for name, found in addresses.items()}, pointers)
