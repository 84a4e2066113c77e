"""Mounts of a container: from what was asked for (-v, --mount, --tmpfs, image volumes) to mount points. Pure.

Which volumes exist and what lies on the host is the caller's business.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from sampan.engine.config import BindOptions, HostConfig, MountRequest
from sampan.engine.id_mapping import BY_OWNER, parse_id_map
from sampan.engine.model import MountPoint
from sampan.errors import Invalid

_VOLUME_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_MAX_VOLUME_NAME = 255
"""It names a directory."""
_PATH_MAX, _NAME_MAX = 4096, 255
"""Bytes; the first with the zero byte behind the path."""
_PROPAGATIONS = frozenset({"private", "rprivate", "shared", "rshared", "slave", "rslave"})
_LABELS = frozenset({"z", "Z"})
_CONSISTENCY = frozenset({"consistent", "cached", "delegated", "default"})
_TMPFS_FLAGS = frozenset(
    (
        *(
            "ro",
            "rw",
            "exec",
            "noexec",
            "suid",
            "nosuid",
            "dev",
            "nodev",
            "sync",
            "async",
            "atime",
            "noatime",
        ),
        *(
            "diratime",
            "nodiratime",
            "relatime",
            "norelatime",
            "strictatime",
            "nostrictatime",
            "mand",
            "nomand",
        ),
        *("private", "rprivate", "shared", "rshared", "slave", "rslave", "unbindable", "defaults"),
    )
)
_TMPFS_VALUES = ("size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol")


def check_volume_name(name: str) -> None:
    """Raises `Invalid` in Docker's words."""
    if len(name) == 1:
        raise Invalid(
            f"create {name}: volume name is too short, names should be at least two alphanumeric characters"
        )
    if len(name) > _MAX_VOLUME_NAME:
        raise Invalid(f"create {name[:32]}...: volume name is longer than {_MAX_VOLUME_NAME} characters")
    if not _VOLUME_NAME.fullmatch(name):
        raise Invalid(
            f'create {name}: "{name}" includes invalid characters for a local volume name, only '
            '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path'
        )


def parse_bind(spec: str, *, volume_driver: str = "") -> MountPoint:
    """`source:destination[:options]` or `destination` alone (an anonymous volume), as `-v` has it."""
    _refuse_nul(spec)
    parts = spec.split(":")
    if len(parts) > 3 or not all(parts):
        raise Invalid(f"invalid volume specification: '{spec}'")
    if len(parts) == 1:
        destination = _destination(parts[0], spec)
        return MountPoint("volume", destination, anonymous=True, copy=True, driver=volume_driver)
    source, target = parts[0], parts[1]
    mode = parts[2] if len(parts) == 3 else ""
    is_bind = source.startswith("/")
    destination = _destination(target, spec, "bind" if is_bind else "volume")
    options = _check_mode(mode, is_bind)
    read_write = "ro" not in options
    if is_bind:
        propagation = next((option for option in options if option in _PROPAGATIONS), "rprivate")
        return MountPoint(
            "bind",
            destination,
            source=posixpath.normpath(source),
            mode=mode,
            rw=read_write,
            propagation=propagation,
            create=True,
            id_map=_id_map(options),
        )
    check_volume_name(source)
    return MountPoint(
        "volume",
        destination,
        name=source,
        driver=volume_driver,
        mode=mode or "z",
        rw=read_write,
        copy="nocopy" not in options,
        id_map=_id_map(options),
    )


def _id_map(options: Iterable[str]) -> str:
    found = [parse_id_map(option) for option in options if option.partition("=")[0] == BY_OWNER]
    return found[-1] if found else ""


def _check_mode(mode: str, is_bind: bool) -> tuple[str, ...]:
    options = tuple(mode.split(",")) if mode else ()
    groups = (
        frozenset({"ro", "rw"}),
        _LABELS,
        _PROPAGATIONS if is_bind else frozenset({"nocopy", "copy"}),
        _CONSISTENCY,
    )
    for option in options:
        group = next((group for group in groups if option in group), None)
        if group is None and option.partition("=")[0] == BY_OWNER:
            continue
        if group is None or sum(other in group for other in options) > 1:
            raise Invalid(f"invalid mode: {mode}")
    return options


def _destination(path: str, spec: str, kind: str = "volume") -> str:
    if not path.startswith("/"):
        raise Invalid(
            f"invalid volume specification: '{spec}': invalid mount config for type \"{kind}\": "
            f"invalid mount path: '{path}' mount path must be absolute"
        )
    clean = _clean(path)
    if clean == "/":
        raise Invalid(
            f"invalid volume specification: '{spec}': invalid specification: destination can't be '/'"
        )
    return clean


def _clean(path: str) -> str:
    """Normalised; POSIX lets a path begin with two slashes, here it has one.

    Raises `Invalid` for one with a NUL, and for one that no kernel takes (limits.h: PATH_MAX, NAME_MAX).
    """
    _refuse_nul(path)
    clean = "/" + posixpath.normpath(path).lstrip("/")
    raw = clean.encode(errors="surrogatepass")
    if len(raw) >= _PATH_MAX or any(len(name) > _NAME_MAX for name in raw.split(b"/")):
        raise Invalid(f"invalid mount path: '{clean[:64]}...': file name too long")
    return clean


def _refuse_nul(path: str) -> None:
    if "\0" in path:
        raise Invalid(f"invalid mount path: it contains a zero byte: {path!r}")


def parse_mount(request: MountRequest) -> MountPoint:
    """An entry of HostConfig.Mounts. Raises `Invalid` in Docker's words."""
    kind = request.type
    _refuse_nul(request.source)
    if kind not in ("bind", "volume", "image", "tmpfs"):
        raise _bad_mount(kind, "mount type unknown")
    if not request.target:
        raise _bad_mount(kind, "field Target must not be empty")
    if not request.target.startswith("/"):
        raise _bad_mount(kind, f"invalid mount path: '{request.target}' mount path must be absolute")
    target = _clean(request.target)
    if target == "/":
        raise _bad_mount(kind, "invalid specification: destination can't be '/'")
    _check_options(request)
    if request.id_map:
        if kind not in ("bind", "volume"):
            raise _bad_mount(kind, "field IDMap must not be specified")
        return replace(_of_kind(request, target), id_map=parse_id_map(request.id_map))
    return _of_kind(request, target)


def _of_kind(request: MountRequest, target: str) -> MountPoint:
    kind = request.type
    if kind == "bind":
        return _bind_mount(request, target)
    if kind == "volume":
        return _volume_mount(request, target)
    if kind == "image":
        return _image_mount(request, target)
    if request.source:
        raise _bad_mount(kind, "field Source must not be specified")
    return MountPoint(
        "tmpfs", target, rw=not request.read_only, options=_tmpfs_mount_options(request), from_mounts=True
    )


def _check_options(request: MountRequest) -> None:
    for kind, options, name in (
        ("bind", request.bind_options, "BindOptions"),
        ("volume", request.volume_options, "VolumeOptions"),
        ("image", request.image_options, "ImageOptions"),
        ("tmpfs", request.tmpfs_options, "TmpfsOptions"),
    ):
        if options is not None and request.type != kind:
            raise _bad_mount(request.type, f"field {name} must not be specified")


def _bind_mount(request: MountRequest, target: str) -> MountPoint:
    options = request.bind_options
    if not request.source:
        raise _bad_mount("bind", "field Source must not be empty")
    if not request.source.startswith("/"):
        raise _bad_mount("bind", f"invalid mount path: '{request.source}' mount path must be absolute")
    options = options or BindOptions()
    propagation = options.propagation
    if propagation and propagation not in _PROPAGATIONS:
        raise _bad_mount("bind", f"invalid propagation mode: {propagation}")
    return MountPoint(
        "bind",
        target,
        source=posixpath.normpath(request.source),
        rw=not request.read_only,
        propagation=propagation or "rprivate",
        recursive=not options.non_recursive,
        create=options.create_mountpoint,
        below=_below(options),
        from_mounts=True,
    )


def _below(options: BindOptions) -> str:
    if options.read_only_force_recursive:
        return "readonly"
    return "writable" if options.read_only_non_recursive else ""


def _volume_mount(request: MountRequest, target: str) -> MountPoint:
    options = request.volume_options
    if request.source:
        check_volume_name(request.source)
    subpath = _subpath("volume", options.subpath if options else "")
    if not request.source and request.read_only:
        raise _bad_mount("volume", "must not set ReadOnly mode when using anonymous volumes")
    if not request.source and subpath:
        raise _bad_mount("volume", "must not set Subpath when using anonymous volumes")
    return MountPoint(
        "volume",
        target,
        name=request.source,
        mode="z",
        rw=not request.read_only,
        anonymous=not request.source,
        driver=options.driver_config.name if options and options.driver_config else "",
        copy=not (options and options.no_copy),
        subpath=subpath,
        from_mounts=True,
    )


def _image_mount(request: MountRequest, target: str) -> MountPoint:
    """An image's files. They can't be written to."""
    if not request.source:
        raise _bad_mount("image", "field Source must not be empty")
    subpath = _subpath("image", request.image_options.subpath if request.image_options else "")
    return MountPoint(
        "image",
        target,
        name=request.source,
        rw=False,
        propagation="rprivate",
        subpath=subpath,
        from_mounts=True,
    )


def _subpath(kind: str, subpath: str) -> str:
    """Normalised by its text alone, as Docker does; "" for the whole."""
    _refuse_nul(subpath)
    clean = posixpath.normpath(subpath) if subpath else ""
    if clean.startswith("/") or clean.split("/")[0] == "..":
        raise _bad_mount(kind, "subpath must be a relative path within the volume")
    return "" if clean == "." else clean


def _tmpfs_mount_options(request: MountRequest) -> tuple[str, ...]:
    options = request.tmpfs_options
    if options is None:
        return ()
    if options.size_bytes < 0:
        raise _bad_mount("tmpfs", "size must not be negative")
    found = []
    if options.size_bytes:
        found.append(f"size={options.size_bytes}")
    if options.mode:
        found.append(f"mode={options.mode:o}")
    for option in options.options or ():
        found.append("=".join(option))
    return check_tmpfs_options(found)


def parse_tmpfs(path: str, options: str) -> MountPoint:
    """An entry of HostConfig.Tmpfs (`--tmpfs path:options`)."""
    if not path.startswith("/"):
        raise Invalid(f"invalid mount path: '{path}' mount path must be absolute")
    if _clean(path) == "/":
        raise Invalid("invalid specification: destination can't be '/'")
    found = check_tmpfs_options(option for option in options.split(",") if option)
    return MountPoint("tmpfs", _clean(path), mode=options, rw="ro" not in found, options=found)


def check_tmpfs_options(options: Iterable[str]) -> tuple[str, ...]:
    found = tuple(options)
    for option in found:
        name, equals, value = option.partition("=")
        known = name in _TMPFS_VALUES and value if equals else name in _TMPFS_FLAGS
        if not known:
            raise Invalid(f'invalid tmpfs option ["{option}"]')
    return found


def _bad_mount(kind: str, reason: str) -> Invalid:
    return Invalid(f'invalid mount config for type "{kind}": {reason}')


def collect(
    host: HostConfig,
    image_volumes: Iterable[str],
    inherited: Sequence[MountPoint] = (),
) -> tuple[MountPoint, ...]:
    """All mount points of a new container. `inherited` come from --volumes-from and give way to its own.

    Anonymous volumes still have no name. Raises `Invalid` for two mounts at one place.
    """
    points: dict[str, MountPoint] = {}
    for point in inherited:
        points[point.destination] = point
    own: set[str] = set()
    asked = [parse_bind(spec, volume_driver=host.volume_driver) for spec in host.binds or ()]
    asked += [parse_mount(request) for request in host.mounts or ()]
    for point in asked:
        if point.destination in own:
            raise Invalid(f"Duplicate mount point: {point.destination}")
        own.add(point.destination)
        points[point.destination] = point
    for path, options in (host.tmpfs or {}).items():
        point = parse_tmpfs(path, options)
        if point.destination in own:
            raise Invalid(f"Duplicate mount point: {point.destination}")
        # Tmpfs mounts of this form are not listed among the mounts: `tmpfs_points` makes them at start.
        points.pop(point.destination, None)
    tmpfs = {_clean(path) for path in host.tmpfs or {}}
    for path in image_volumes:
        destination = _clean(f"/{path}")  # relative ones too, as with Docker: `VOLUME data` is /data
        if destination == "/":  # Docker takes it, and fails at the start
            raise Invalid("invalid specification: destination can't be '/'")
        if destination not in points and destination not in tmpfs:
            points[destination] = MountPoint(
                "volume", destination, anonymous=True, copy=True, driver=host.volume_driver
            )
    return tuple(points.values())


def tmpfs_points(host: HostConfig) -> tuple[MountPoint, ...]:
    """The mounts of HostConfig.Tmpfs."""
    return tuple(parse_tmpfs(path, options) for path, options in (host.tmpfs or {}).items())


def parse_volumes_from(spec: str) -> tuple[str, bool]:
    """`container[:ro|rw|z|Z]` -> (container, read-only)."""
    if not spec:
        raise Invalid("volumes-from specification cannot be an empty string")
    name, _, mode = spec.partition(":")
    if not name:
        raise Invalid(f"invalid volumes-from specification: {spec!r}")
    if mode not in ("", "ro", "rw", "z", "Z"):
        raise Invalid(f"invalid mode: {mode}")
    return name, mode == "ro"


def inherit(points: Iterable[MountPoint], *, read_only: bool) -> tuple[MountPoint, ...]:
    """Another container's mounts as --volumes-from takes them over (never to be filled again)."""
    return tuple(
        replace(point, mode="", rw=point.rw and not read_only, copy=False, anonymous=False)
        for point in points
        if point.type in ("bind", "volume", "image")
    )


def mount_order(points: Iterable[MountPoint]) -> tuple[MountPoint, ...]:
    """Parents before what is mounted below them."""
    return tuple(sorted(points, key=lambda point: (point.destination.count("/"), point.destination)))
