"""What a build works with, made for each one. The first build imports it: an engine that builds nothing never does."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from sampan.build.session import ClientSession
from sampan.build.solver.builder import Builder
from sampan.build.solver.flights import Flights
from sampan.build.solver.inputs import InputsStore, MetadataInputs
from sampan.engine.build_job import Tools
from sampan.engine.build_worker import EngineWorker
from sampan.engine.cache_leases import CacheLeases
from sampan.engine.cache_mounts import CacheMounts
from sampan.engine.cache_transfer import BuildCaches
from sampan.engine.cache_use import BuildUse
from sampan.engine.containers.build_steps import BuildSteps
from sampan.engine.images import Images
from sampan.registry.config import Credentials
from sampan.runtime.launcher_client import LauncherClient
from sampan.storage.metadata import Metadata
from sampan.storage.snapshots import SnapshotStore


class BuildTools:
    """`make` is `sampan.engine.builds.MakeTools`; what builds share is here. Thread-safe."""

    def __init__(
        self,
        images: Images,
        metadata: Metadata,
        snapshots: SnapshotStore,
        launcher: LauncherClient,
        steps: BuildSteps,
        mounts: CacheMounts,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """`loop`: where the engine's networks are made."""
        self._images = images
        self._metadata = metadata
        self._snapshots = snapshots
        self._launcher = launcher
        self._steps = steps
        self._mounts = mounts
        self._loop = loop
        self._leases = CacheLeases(mounts)
        self._flights = Flights()
        self._inputs = InputsStore(MetadataInputs(metadata))

    def make(
        self,
        credentials: Mapping[str, Credentials],
        client: ClientSession,
        use: BuildUse,
        host_ca: bool,
        stored: bool,
    ) -> Tools:
        trust = None
        if host_ca:
            from sampan.engine.host_ca.step import host_trust

            trust = host_trust()
        transfer = BuildCaches(self._images, credentials, client, self._mounts, self._leases, use.touch)
        worker = EngineWorker(
            self._images,
            self._snapshots,
            self._launcher,
            self._steps,
            self._mounts,
            self._leases,
            use,
            self._loop,
            credentials,
            trust,
            transfer,
            keep_images=stored,
        )
        builder = Builder(
            worker,
            self._metadata,
            touched=use.touch,
            transfer=transfer,
            flights=self._flights,
            inputs=self._inputs,
            loosened=use.loosen,
        )
        return Tools(builder, worker, self._images, credentials)
