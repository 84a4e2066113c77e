"""A layer for one build step that lies on its image: the image's own bundles, with the host's certificates added.

So every program finds them where it looks, and a step may replace or edit a bundle as ever: what it writes goes to
its own layer, and what of ours came there with it is taken out afterwards.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sampan.engine.host_ca import keystore, pkcs12
from sampan.engine.host_ca.bundle import MAX_BUNDLE, Joined, certificates, joined
from sampan.errors import Invalid
from sampan.linux.paths import open_in_root, open_regular
from sampan.storage.tar_writer import DEPTH_MAX

BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Alpine, Arch, NixOS
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  # Fedora and its like
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/var/lib/ca-certificates/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/usr/local/share/certs/ca-root-nss.crt",
)
STORES = ("/etc/ssl/certs/java/cacerts", "/etc/pki/java/cacerts", "/opt/java/openjdk/lib/security/cacerts")
_JVMS = "/usr/lib/jvm"
_SMALLEST_STORE = 64
"""Bytes of one with an entry of ours."""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_IN_JVM = ("lib/security/cacerts", "jre/lib/security/cacerts")


@dataclass(frozen=True, slots=True)
class Place:
    """A file of the image, at `path` (relative), and what it is replaced with."""

    path: str
    info: os.stat_result
    before: bytes
    after: bytes
    bundle: Joined | None
    """None: a Java keystore."""


def find_places(root: int, host: bytes, java_home: str) -> list[Place]:
    """The bundles and stores that the root file system has and that lack some of the host's certificates."""
    found: dict[str, Place] = {}
    for path in BUNDLES:
        own = _read(root, path)
        if own is not None and own[0] not in found:
            both = joined(own[2], host)
            if both.inserted:
                found[own[0]] = Place(*own, both.content, both)
    for path in (*STORES, *_stores_of_jvms(root, java_home)):
        own = _read(root, path)
        if own is not None and own[0] not in found:
            after = _extended(own[2], certificates(host))
            if after != own[2]:
                found[own[0]] = Place(*own, after, None)
    return list(found.values())


def own_bundle(root: int) -> bytes:
    """The bundle that the root file system has; b"" when it has none."""
    for path in BUNDLES:
        own = _read(root, path)
        if own is not None:
            return own[2]
    return b""


def write_layer(root: int, places: list[Place], directory: Path) -> None:
    """The files, below directories that look like those of the root."""
    for place in places:
        made = ""
        for part in posixpath.dirname(place.path).split("/"):
            made = posixpath.join(made, part)
            if part and not (directory / made).exists():
                (directory / made).mkdir()
        target = directory / place.path
        target.write_bytes(place.after)
        os.chown(target, place.info.st_uid, place.info.st_gid)
        os.chmod(target, stat.S_IMODE(place.info.st_mode))
        os.utime(target, ns=(place.info.st_mtime_ns, place.info.st_mtime_ns))
    for path in sorted((one for one in directory.rglob("*") if one.is_dir()), reverse=True):
        _like(root, str(path.relative_to(directory)), path)
    _like(root, ".", directory)


def clean_up(upper: Path, places: list[Place]) -> None:
    """Take ours out of every file of a step's layer: bundles that it has edited, copies that it has made.

    Nothing runs in it any more. A copy in an archive or an image is not found.
    """
    bundles = [place.bundle for place in places if place.bundle is not None]
    blocks = [len(block) for bundle in bundles for block in bundle.blocks]
    smallest = min([*blocks, *(_SMALLEST_STORE for one in places if one.bundle is None)])
    for directory, name, info in _files(upper):
        if not smallest <= info.st_size <= MAX_BUNDLE:
            continue
        content = _content(open_regular(directory, name))
        cleaned = _cleaned(content, bundles)
        if cleaned != content:
            _rewrite(directory, name, cleaned, info)


def _files(top: Path) -> Iterator[tuple[int, str, os.stat_result]]:
    """Every regular file, by the descriptor of its directory. Raises `Invalid` for what is too deep for a layer."""
    trail: list[tuple[int, list[str]]] = []
    below: int | None = os.open(top, _DIRECTORY)
    try:
        while below is not None or trail:
            if below is not None:
                trail.append((below, []))
                trail[-1][1].extend(os.listdir(below))
                below = None
                if len(trail) > DEPTH_MAX:
                    raise Invalid(f"directories are nested more than {DEPTH_MAX} deep")
            directory, names = trail[-1]
            if not names:
                os.close(trail.pop()[0])
                continue
            name = names.pop()
            info = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISREG(info.st_mode):
                yield directory, name, info
            elif stat.S_ISDIR(info.st_mode):
                below = os.open(name, _DIRECTORY, dir_fd=directory)
    finally:
        for directory, _ in trail:
            os.close(directory)


def _cleaned(content: bytes, bundles: list[Joined]) -> bytes:
    for bundle in bundles:
        content = bundle.removed_from(content)
    if keystore.OURS in content and (store := keystore.decode(content)) is not None:
        return keystore.encode(store.without_ours())
    if pkcs12.NAME in content and (safes := pkcs12.decode(content)) is not None:
        return pkcs12.encode(safes.without_ours())
    return content


def _extended(content: bytes, host: Iterable[bytes]) -> bytes:
    """A keystore with the host's certificates; what is none of the known kinds stays as it is."""
    store = keystore.decode(content)
    if store is not None:
        return keystore.encode(store.with_certificates(host))
    safes = pkcs12.decode(content)
    return content if safes is None else pkcs12.encode(safes.with_certificates(host))


def _rewrite(parent: int, name: str, content: bytes, info: os.stat_result) -> None:
    """In place: other names of the file are names of this content too."""
    file = os.open(name, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    with os.fdopen(file, "wb") as out:
        out.truncate(0)
        out.write(content)
        out.flush()
        os.utime(out.fileno(), ns=(info.st_atime_ns, info.st_mtime_ns))


def _stores_of_jvms(root: int, java_home: str) -> list[str]:
    homes = [java_home] if java_home.startswith("/") else []
    try:
        jvms = open_in_root(root, _JVMS, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        jvms = -1
    if jvms >= 0:
        try:
            homes += [f"{_JVMS}/{name}" for name in sorted(os.listdir(jvms))[:64]]
        finally:
            os.close(jvms)
    return [f"{home}/{inner}" for home in homes for inner in _IN_JVM]


def _read(root: int, path: str) -> tuple[str, os.stat_result, bytes] | None:
    """Where the file really lies in the root (relative), its attributes and content; None when it is none."""
    try:
        found = open_in_root(root, path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        info = os.fstat(found)
        if not stat.S_ISREG(info.st_mode) or info.st_size > MAX_BUNDLE:
            return None
        place = os.readlink(f"/proc/self/fd/{found}")
        top = os.readlink(f"/proc/self/fd/{root}").rstrip("/")
        content = _content(os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_CLOEXEC))
    finally:
        os.close(found)
    return place.removeprefix(top).lstrip("/"), info, content


def _content(descriptor: int) -> bytes:
    with os.fdopen(descriptor, "rb") as file:
        return file.read(MAX_BUNDLE)


def _like(root: int, path: str, target: Path) -> None:
    """The directory `target` gets the owner, mode, times and attributes that `path` has in the root."""
    found = open_in_root(root, path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        info = os.fstat(found)
        os.chown(target, info.st_uid, info.st_gid)
        os.chmod(target, stat.S_IMODE(info.st_mode))
        for name in os.listxattr(found):
            if not name.startswith("trusted.overlay."):
                os.setxattr(target, name, os.getxattr(found, name))
        os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns))
    finally:
        os.close(found)
