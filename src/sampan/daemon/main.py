"""`sampan daemon`: start, serve, stop."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import logging
import os
import resource
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sampan.api.http import HttpServer
from sampan.daemon.listen import open_listener, open_metrics_listener
from sampan.daemon.options import DaemonOptions, parse_options
from sampan.daemon.wiring import Assembled, assemble
from sampan.engine.threads import long_work_ended
from sampan.errors import Conflict, SampanError, exit_code
from sampan.registry.proxies import proxies_of

if TYPE_CHECKING:
    from sampan.api.metrics import MetricsServer

log = logging.getLogger(__name__)

READY_FD_VARIABLE = "SAMPAN_READY_FD"
_THREADS = 64
"""Short blocking work at the same time, as waits for the launcher. Threads are made when needed."""
_UMASK = 0o022
"""Whatever it was started with, as dockerd has it: the modes of what containers and layers get don't depend on it."""
_LONG_WORK_SECONDS = 30.0
"""How long a build that was cancelled at the end may take to undo what it had begun: it needs the engine for that."""


def main(argv: Sequence[str]) -> int:
    """Run until SIGTERM or SIGINT; the exit code."""
    try:
        options = _with_proxies(parse_options(argv))
        _set_up_logging(options.settings.debug)
        _allow_many_files()
        os.umask(_UMASK)
        if os.geteuid() != 0:
            raise Conflict("the engine needs root", hint="start it with sudo")
        with _RunLock(options.settings.run):
            asyncio.run(_serve(options))
    except SampanError as error:
        sys.stderr.write(f"sampan daemon: {error.message}\n" + (f"{error.hint}\n" if error.hint else ""))
        return exit_code(error)
    return 0


def _with_proxies(options: DaemonOptions) -> DaemonOptions:
    """What flags and file don't say of proxies the environment does."""
    proxies = proxies_of(options.settings.proxies, os.environ)
    return replace(options, settings=replace(options.settings, proxies=proxies))


class _RunLock:
    """One daemon per run directory (the root has a lock of its own, held by the metadata database)."""

    def __init__(self, run: Path) -> None:
        run.mkdir(parents=True, exist_ok=True, mode=0o711)
        self._path = run / "daemon.pid"
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def __enter__(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._fd)
            raise Conflict(
                f"another sampan daemon (pid {holder}) uses {self._path.parent}",
                hint="stop it, or give this one directories of its own with --root and --run",
            ) from error
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def __exit__(self, *_: object) -> None:
        os.ftruncate(self._fd, 0)
        os.close(self._fd)


async def _serve(options: DaemonOptions) -> None:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(_THREADS, thread_name_prefix="work"))
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    for sentence in options.told:
        log.warning("daemon.json: %s", sentence)
    assembled = await assemble(options.settings)
    metrics = _metrics(options, assembled)
    server = HttpServer(assembled.dispatch if metrics is None else metrics.timed_dispatch(assembled.dispatch))
    listening: list[str] = []
    try:
        await assembled.recover()
        for host in options.hosts:
            await server.listen(open_listener(host))
            listening.append(host)
            log.info("API listening at %s", host)
        if metrics is not None and options.metrics_address is not None:
            await metrics.listen(open_metrics_listener(options.metrics_address))
            log.info("metrics at %s/metrics", options.metrics_address.replace("tcp:", "http:"))
        # What lives from here to the end need not be looked at by every collection.
        gc.collect()
        gc.freeze()
        _say_ready()
        await stop.wait()
        log.info("stopping; containers run on")
    finally:
        await server.close()
        if metrics is not None:
            await metrics.close()
        _forget_sockets(listening)
        try:
            await asyncio.wait_for(long_work_ended(), _LONG_WORK_SECONDS)
        except TimeoutError:
            log.warning("work under way has not ended within %.0f s", _LONG_WORK_SECONDS)
        await assembled.close()


def _metrics(options: DaemonOptions, assembled: Assembled) -> MetricsServer | None:
    if options.metrics_address is None:
        return None
    from sampan.api.metrics import MetricsServer  # the library behind it is no small import
    from sampan.engine.metrics import Metrics

    return MetricsServer(Metrics(assembled.engine))


def _allow_many_files() -> None:
    """Every published port holds a socket, every running container some descriptors."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _say_ready() -> None:
    """Tell whoever started the daemon that it serves: one byte, then the end of the pipe."""
    text = os.environ.pop(READY_FD_VARIABLE, "")
    if text.isdecimal():
        with contextlib.suppress(BrokenPipeError):
            os.write(int(text), b"\n")
        os.close(int(text))


def _forget_sockets(hosts: Sequence[str]) -> None:
    """Only those that we serve: an address that could not be had belongs to another daemon."""
    for host in hosts:
        if host.startswith("unix://"):
            Path(host.removeprefix("unix://")).unlink(missing_ok=True)


def _set_up_logging(debug: bool) -> None:
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
