"""Git repositories that one ADD names: their commits first, their files when the step is not in the cache."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from urllib.parse import urlsplit

from sampan.build.agent_socket import AgentSocket
from sampan.build.fetch.git import Resolved, check_out, content_key, resolve
from sampan.build.fetch.git_transport import Limits
from sampan.build.fetch.git_url import GitSource, parse_git
from sampan.build.files.tree import Selection, Tree
from sampan.build.model import CopyOperation
from sampan.build.session import ClientSession
from sampan.build.solver.voice import Voice
from sampan.errors import Invalid, NotFound
from sampan.oci.ignore import IgnoreRules
from sampan.registry.progress import Progress
from sampan.registry.proxies import Proxies

DEFAULT_AGENT = "default"
"""What `--ssh default` is called."""
_TOLD_EVERY = 1 << 20
"""Bytes."""


class Repositories:
    """`stack` of the owner closes and removes what is checked out."""

    def __init__(
        self,
        operation: CopyOperation,
        addresses: list[str],
        stack: ExitStack,
        voice: Voice,
        cancelled: threading.Event,
        client: ClientSession,
        proxies: Proxies,
    ) -> None:
        self._operation = operation
        self._proxies = proxies
        self._stack = stack
        self._voice = voice
        self._cancelled = cancelled
        self._client = client
        self._agent: str | None = None
        self._sources = [self._parsed(address) for address in addresses]
        self._resolved: dict[int, Resolved] = {}
        self._trees: list[tuple[Tree, Selection]] = []

    def __bool__(self) -> bool:
        return bool(self._sources)

    def content_keys(self) -> list[str]:
        """What the files depend on: each repository is asked for its commit. Raises as `fetch.git.resolve` does."""
        return [
            content_key(source, self._commit(index), keep_git_dir=bool(source.keep_git_dir))
            for index, source in enumerate(self._sources)
        ]

    def trees(self) -> list[tuple[Tree, Selection]]:
        """The files of each, in a directory of their own; fetched once."""
        found = self._trees
        for index, source in enumerate(self._sources[len(found) :], len(found)):
            folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="sampan-git-"))
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._stack.callback(os.close, fd)
            os.fchmod(fd, 0o755)
            resolved = self._commit(index)
            check_out(source, resolved, fd, self._limits(source), keep_git_dir=bool(source.keep_git_dir))
            tree = Tree(fd, IgnoreRules(), is_context=False)
            found += [(tree, selection) for selection in tree.select(".", self._operation.exclude)]
        return found

    def _commit(self, index: int) -> Resolved:
        if index not in self._resolved:
            source = self._sources[index]
            self._resolved[index] = resolve(source, self._limits(source))
            self._voice.used(source.named, "sha1", self._resolved[index].commit)
        return self._resolved[index]

    def _parsed(self, address: str) -> GitSource:
        """With what the instruction's flags say; a flag and an address must not contradict each other."""
        source, operation = parse_git(address), self._operation
        if operation.keep_git_dir and source.keep_git_dir is False:
            raise Invalid("inconsistent keep-git-dir configuration")
        if operation.checksum and source.checksum and operation.checksum != source.checksum:
            raise Invalid(f'checksum mismatch "{operation.checksum}" != "{source.checksum}"')
        return replace(
            with_credentials(source, self._client),
            keep_git_dir=operation.keep_git_dir or source.keep_git_dir,
            checksum=operation.checksum or source.checksum,
        )

    def _limits(self, source: GitSource) -> Limits:
        told = 0

        def progress(count: int) -> None:
            nonlocal told
            if count - told >= _TOLD_EVERY:
                told = count
                self._voice.transfer(Progress("Downloading", source.url.remote, count))

        return Limits(self._cancelled, progress, self._agent_for(source), self._proxies)

    def _agent_for(self, source: GitSource) -> str:
        """The path of a socket that leads to the client's agent; empty when it forwards none."""
        if self._agent is None and source.url.scheme == "ssh":
            self._agent = self._stack.enter_context(forwarded_agent(self._client))
        return self._agent or ""


def with_credentials(source: GitSource, client: ClientSession) -> GitSource:
    """With Docker's secrets for a server: GIT_AUTH_TOKEN.<host>, GIT_AUTH_TOKEN. They stay with that server."""
    url = source.url
    if url.scheme not in ("http", "https") or url.password:
        return source
    for name in (f"GIT_AUTH_TOKEN.{url.host}", "GIT_AUTH_TOKEN"):
        if token := offered_secret(client, name):
            return replace(source, url=replace(url, user="x-access-token", password=token))
    return source


def authorization_for(url: str, client: ClientSession) -> str:
    """A header's value by Docker's secrets for a server: HTTP_AUTH_HEADER_<host>, HTTP_AUTH_TOKEN_<host>."""
    host = urlsplit(url).hostname or ""
    if header := offered_secret(client, f"HTTP_AUTH_HEADER_{host}"):
        return header
    token = offered_secret(client, f"HTTP_AUTH_TOKEN_{host}")
    return f"Bearer {token}" if token else ""


def offered_secret(client: ClientSession, name: str) -> str:
    """Empty when the client offers none of that name. Raises `Invalid` for one that is no header's text."""
    try:
        text = client.secret(name).decode("utf-8", "replace").strip()
    except NotFound:
        return ""
    if not text.isprintable() or not text.isascii():
        raise Invalid(
            f"secret {name} can't be sent in a header: it has other characters than printable ASCII"
        )
    return text


@contextlib.contextmanager
def forwarded_agent(client: ClientSession) -> Iterator[str]:
    """A socket's path that leads to the agent `default` of the client; empty when it forwards none."""
    if not client.has_ssh_agent(DEFAULT_AGENT):
        yield ""
        return
    with tempfile.TemporaryDirectory(prefix="sampan-ssh-") as folder:
        path = os.path.join(folder, "agent")
        with AgentSocket(path, partial(client.ssh_agent, DEFAULT_AGENT)):
            yield path
