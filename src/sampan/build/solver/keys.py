"""What a step's result depends on, as cache keys. Pure.

A key covers content and nothing else: the layers that the step stands on, what it does, the files that it reads. So
the result is found again after a LABEL has changed, on a base image that was rebuilt to the same layers, or from
another Dockerfile that says the same. Times never count; of caches, secrets and agents only that they are asked for.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from sampan.build.dockerfile.state import StageState
from sampan.build.model import BuildRequest, CopyOperation, RunOperation
from sampan.build.solver.cache import key_of
from sampan.oci.digest import Digest
from sampan.oci.image import ImageConfig


def chain_of(diff_ids: Sequence[Digest]) -> str:
    """Of the layers that a step stands on."""
    return key_of("chain", diff_ids)


def run_key(
    chain: str,
    operation: RunOperation,
    state: StageState,
    base: ImageConfig,
    request: BuildRequest,
    binds: Sequence[str],
) -> str:
    """`binds`: checksums of what bind mounts show.

    Of the environment ENV and declared arguments count: proxies are in it too, and don't. Of limits those count that a
    step's own process reads of itself; how much memory and time it gets says whether it ends, not how.
    """
    parts: list[object] = [
        operation.args,
        operation.script,
        state.config.env or (),
        operation.key_args,
        operation.cwd,
        operation.user,
        network_of(operation, request),
        request.extra_hosts,
        [repr(mount) for mount in operation.mounts],
        binds,
        operation.security,
        [base.os, base.architecture, base.variant or ""],
        *([operation.hostname] if operation.hostname else ()),
    ]
    if request.limits.ulimits or request.shm_size:
        parts.append([sorted(request.limits.ulimits), request.shm_size])
    return key_of("run", [chain, json.dumps(parts)])


def network_of(operation: RunOperation, request: BuildRequest) -> str:
    """The step's, else the build's; "" also for "default", which clients send or leave out."""
    network = operation.network or request.network
    return "" if network == "default" else network


def copy_key(chain: str, operation: CopyOperation, content: str) -> str:
    """`content`: everything that is copied, and the names that it is copied under. `chain`: empty for `--link`."""
    options = [
        operation.destination,
        operation.chown,
        operation.chmod,
        operation.is_add,
        operation.parents,
        operation.exclude,
        operation.unpack,
        operation.keep_git_dir,
    ]
    return key_of("copy", [chain, json.dumps(options), content])


def dated_key(key: str, epoch: int | None) -> str:
    """Of a layer without files newer than `epoch`."""
    return key if epoch is None else key_of("epoch", [key, str(epoch)])


def workdir_key(chain: str, path: str, user: str) -> str:
    return key_of("workdir", [chain, path, *([user] if user else [])])
