"""What a RUN mounts: looked up, asked for and opened before the step, given back after it."""

from __future__ import annotations

import os
import posixpath
import tempfile
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

from sampan.build.files.checksum import checksum
from sampan.build.files.private import private_copy
from sampan.build.files.tree import Tree
from sampan.build.model import MountOption, RunOperation
from sampan.build.session import ClientSession, no_agent
from sampan.build.solver.cache import key_of
from sampan.build.worker import CacheWish, RunMount, Worker
from sampan.errors import Invalid, NotFound
from sampan.linux.paths import open_in_root
from sampan.oci.digest import Digest

MAX_MOUNTS = 100
"""Of one RUN."""
_STRICTNESS = ("shared", "private", "locked")
_MAX_ENVIRONMENT = 128 * 1024
"""Bytes of one environment variable that execve(2) takes."""


@dataclass(slots=True)
class RunMounts:
    """A context manager. `mounts` and `secret_env` belong into the `RunRequest`, `env` before the step's own."""

    worker: Worker
    client: ClientSession
    context: Tree
    origin_of: Callable[[str], tuple[Digest, ...] | Tree]
    cancelled: threading.Event
    mounts: list[RunMount] = field(default_factory=list)
    env: tuple[str, ...] = ()
    secret_env: tuple[str, ...] = ()
    _stack: ExitStack = field(default_factory=ExitStack)
    _roots: dict[tuple[Digest, ...], int] = field(default_factory=dict)
    _caches: dict[MountOption, int] = field(default_factory=dict)
    _sockets: int = 0

    def __enter__(self) -> RunMounts:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def prepare(self, operation: RunOperation) -> None:
        """Raises `NotFound` (a source, a required secret or agent that is missing), `Invalid`, `Unavailable`."""
        if len(operation.mounts) > MAX_MOUNTS:
            raise Invalid(f"a RUN can have {MAX_MOUNTS} mounts, not {len(operation.mounts)}")
        for mount in operation.mounts:
            if mount.origin:
                self._root_of(mount)  # stages are built before anything is locked
        self._lock_caches([mount for mount in operation.mounts if mount.kind == "cache"])
        for mount in operation.mounts:
            self._add(mount)
        if operation.script:
            self._add_script(operation)

    def _add(self, mount: MountOption) -> None:
        match mount.kind:
            case "tmpfs":
                self.mounts.append(RunMount("tmpfs", mount.target, size=mount.size, readonly=mount.readonly))
            case "cache":
                base = self._caches[_cache_of(mount)]
                source = (
                    "" if mount.origin else mount.source
                )  # with an origin it is all that the cache began with
                self._bind(mount, base, source, readonly=mount.readonly, discard=False)
            case "bind":
                if mount.origin:
                    base, source = self._root_of(mount), mount.source
                else:
                    base, source = self._copied(self.context, mount.source)
                self._bind(mount, base, source, readonly=mount.readonly, discard=not mount.readonly)
            case "secret":
                self._add_secret(mount)
            case "ssh":
                self._add_agent(mount)

    def _bind(self, mount: MountOption, base: int, source: str, *, readonly: bool, discard: bool) -> None:
        path = posixpath.normpath("/" + source).lstrip("/") or "."
        try:
            os.close(open_in_root(base, path, os.O_PATH | os.O_CLOEXEC))
        except OSError as error:
            raise NotFound(
                f'failed to calculate checksum of ref: "/{path}": not found'
                if mount.kind == "bind"
                else f"cache mount {mount.id} has no {mount.source}: {os.strerror(error.errno or 0).lower()}"
            ) from error
        self.mounts.append(
            RunMount("bind", mount.target, base=base, path=path, readonly=readonly, discard=discard)
        )

    def _root_of(self, mount: MountOption) -> int:
        layers = self.origin_of(mount.origin)
        if isinstance(layers, Tree):
            return self._copied(layers, ".")[0]
        if layers not in self._roots:
            root = self.worker.open_root(layers, None)
            self._stack.callback(os.close, root)
            self._roots[layers] = root
        return self._roots[layers]

    def _copied(self, tree: Tree, source: str) -> tuple[int, str]:
        return self._stack.enter_context(private_copy(tree, source, self.cancelled))

    def _lock_caches(self, mounts: list[MountOption]) -> None:
        """In one order for every step: none waits for what another has while that waits for what it has.

        What a step mounts several times is asked for once, as the strictest of them shares it: it does not wait for
        itself.
        """
        wishes: dict[MountOption, CacheWish] = {}
        for cache in dict.fromkeys(_cache_of(mount) for mount in mounts):
            seed, seed_key = -1, ""
            if cache.origin:
                seed_key = key_of("seed", [self._origin_key(cache), cache.source])
                seed = self._open_seed(cache)
            wishes[cache] = CacheWish(
                cache.id,
                cache.sharing,
                0o755 if cache.mode is None else cache.mode,
                cache.uid or 0,
                cache.gid or 0,
                seed_key,
                seed,
            )
        for same in sorted({_identity(wish) for wish in wishes.values()}):
            asked = {cache: wish for cache, wish in wishes.items() if _identity(wish) == same}
            strictest = max(asked.values(), key=lambda wish: _STRICTNESS.index(wish.sharing))
            directory = self._stack.enter_context(self.worker.open_cache(strictest, self.cancelled))
            self._caches.update(dict.fromkeys(asked, directory))

    def _origin_key(self, cache: MountOption) -> str:
        origin = self.origin_of(cache.origin)
        if isinstance(origin, Tree):
            return checksum(origin, origin.select(cache.source or "."), self.cancelled)
        return key_of("layers", origin)

    def _open_seed(self, cache: MountOption) -> int:
        path = posixpath.normpath("/" + cache.source).lstrip("/") or "."
        try:
            seed = open_in_root(self._root_of(cache), path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise NotFound(f"{cache.origin} has no directory {cache.source or '/'}") from error
        self._stack.callback(os.close, seed)
        return seed

    def _add_secret(self, mount: MountOption) -> None:
        try:
            data = self.client.secret(mount.id)
        except NotFound:
            if mount.required:
                raise
            if mount.env is not None:
                self.secret_env += (f"{mount.env}=",)  # empty, as in BuildKit
            return
        if mount.target:
            self.mounts.append(
                RunMount(
                    "secret",
                    mount.target,
                    data=data,
                    mode=0o400 if mount.mode is None else mount.mode & 0o777,
                    uid=mount.uid or 0,
                    gid=mount.gid or 0,
                    readonly=True,
                )
            )
        if mount.env is not None:
            self.secret_env += (f"{mount.env}={_as_variable(mount.id, data)}",)

    def _add_agent(self, mount: MountOption) -> None:
        target = mount.target or f"/run/buildkit/ssh_agent.{self._sockets}"
        if not self._sockets:
            self.env += (f"SSH_AUTH_SOCK={target}",)
        self._sockets += 1
        if not self.client.has_ssh_agent(mount.id):
            if mount.required:
                raise no_agent(mount.id)
            return
        self.mounts.append(
            RunMount(
                "ssh",
                target,
                mode=0o600 if mount.mode is None else mount.mode & 0o777,
                uid=mount.uid or 0,
                gid=mount.gid or 0,
                connect=partial(self.client.ssh_agent, mount.id),
            )
        )

    def _add_script(self, operation: RunOperation) -> None:
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="sampan-heredoc-"))
        path = os.path.join(folder, "script")
        with open(path, "w", encoding="utf-8") as file:
            file.write(operation.script)
        os.chmod(path, 0o755)
        self.mounts.append(RunMount("bind", operation.args[-1], source=path, readonly=True))


def _cache_of(mount: MountOption) -> MountOption:
    """What makes a cache the same one: where it is mounted does not, nor what is mounted of it."""
    return MountOption(
        "cache",
        id=mount.id,
        origin=mount.origin,
        source=mount.source if mount.origin else "",
        sharing=mount.sharing,
        mode=None if mount.source else mount.mode,
        uid=None if mount.source else mount.uid,
        gid=None if mount.source else mount.gid,
    )


def _identity(wish: CacheWish) -> tuple[str, str, int, int, int]:
    """Of the cache itself, whoever shares it."""
    return wish.id, wish.seed_key, wish.mode, wish.uid, wish.gid


def _as_variable(secret_id: str, data: bytes) -> str:
    if len(data) > _MAX_ENVIRONMENT - 1024:
        raise Invalid(f"secret {secret_id} is too large for an environment variable: {len(data)} bytes")
    if b"\0" in data:
        raise Invalid(f"secret {secret_id} has a zero byte and can't be an environment variable")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Invalid(f"secret {secret_id} is not UTF-8 text and can't be an environment variable") from None
