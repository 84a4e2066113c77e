"""`sampan image bootstrap`: a base image made from a distribution's own package mirrors, without any registry.

mmdebstrap (a Debian package) resolves, downloads, verifies and installs the packages; its tar stream goes straight to
the engine's import. What it takes from this host to do so (apt's proxy and certificate settings, name servers) is
removed from the tree before the tar is written.
"""

from __future__ import annotations

import os
import shlex
import sys

from sampan.cli.failure import Failure
from sampan.cli.flags import Command, Flag, Invocation

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    import threading
    from collections.abc import Iterator

_DEBIAN = "http://deb.debian.org/debian"
_DEBIAN_SECURITY = "http://deb.debian.org/debian-security"
_UBUNTU = "http://archive.ubuntu.com/ubuntu"
_UBUNTU_SECURITY = "http://security.ubuntu.com/ubuntu"
_UBUNTU_KEYRING = "/usr/share/keyrings/ubuntu-archive-keyring.gpg"
_UBUNTU_SUITES = {"20.04": "focal", "22.04": "jammy", "24.04": "noble", "25.04": "plucky", "latest": "noble"}
_DEBIAN_SUITES = {"11": "bullseye", "12": "bookworm", "13": "trixie", "latest": "stable"}
# What Docker's -slim images leave out, also of packages installed later.
_SLIM = (
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/groff/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/linda/*",
    "path-exclude=/usr/share/lintian/*",
    "path-exclude=/usr/share/locale/*",
    "path-include=/usr/share/locale/locale.alias",
    "path-exclude=/usr/share/man/*",
)
_HOST_SETTINGS = "etc/apt/apt.conf.d/00-bootstrap-host"
_APT_SETTINGS = 'Acquire::Languages "none";\nAPT::Keep-Downloaded-Packages "false";\n'
_KEPT_APT_ENTRIES = (
    "acquire::http::",
    "acquire::https::",
    "acquire::check-",
    "acquire::retries",
    "acquire::ftp::",
)
_MERGED_USR = "/usr/share/mmdebstrap/hooks/maybe-merged-usr"
# Kept in the image: packages that a later build installs must not start services either.
_NO_SERVICES = (
    'printf "#!/bin/sh\\n# Services are not started while an image is built.\\nexit 101\\n" '
    '> "$1/usr/sbin/policy-rc.d"; chmod 755 "$1/usr/sbin/policy-rc.d"'
)
_CHUNK = 1 << 18
_CHANGES = ['CMD ["bash"]']


class Recipe:
    """What to bootstrap: the suite, its package sources, and the image's name."""

    __slots__ = ("distribution", "keyring", "slim", "sources", "suite", "tag")

    def __init__(self, distribution: str, tag: str, mirror: str, security_mirror: str) -> None:
        self.distribution = distribution
        self.tag = tag
        self.slim = tag.endswith("-slim")
        base = tag.removesuffix("-slim")
        if distribution == "debian":
            self.suite = _DEBIAN_SUITES.get(base, base)
            self.sources = _debian_sources(self.suite, mirror, security_mirror)
            self.keyring = ""
        elif distribution == "ubuntu":
            self.suite = _UBUNTU_SUITES.get(base, base)
            main, security = mirror or _UBUNTU, security_mirror or (mirror or _UBUNTU_SECURITY)
            self.sources = [
                f"deb {main} {self.suite} main universe",
                f"deb {main} {self.suite}-updates main universe",
                f"deb {security} {self.suite}-security main universe",
            ]
            self.keyring = _UBUNTU_KEYRING
        else:
            raise Failure(
                f"cannot bootstrap {distribution!r}",
                hint="debian:SUITE, debian:SUITE-slim and ubuntu:SUITE can be, e.g. debian:bookworm-slim",
            )
        if not self.suite.replace("-", "").replace(".", "").isalnum():
            raise Failure(f"{self.suite!r} is no name of a release")


def _debian_sources(suite: str, mirror: str, security_mirror: str) -> list[str]:
    main = mirror or _DEBIAN
    if not security_mirror:
        # Mirrors keep the security archive beside the main one.
        security_mirror = main.rstrip("/") + "-security" if mirror else _DEBIAN_SECURITY
    if suite in ("sid", "unstable"):
        return [f"deb {main} {suite} main"]
    return [
        f"deb {main} {suite} main",
        f"deb {main} {suite}-updates main",
        f"deb {security_mirror} {suite}-security main",
    ]


def command_line(recipe: Recipe, program: str, variant: str, include: list[str], settings: str) -> list[str]:
    """mmdebstrap's command line; `settings` is the file with this host's apt settings, "" when there are none."""
    command = [program, "--format=tar", f"--variant={variant}", f"--architectures={_architecture()}"]
    if os.geteuid() == 0:
        command.append("--mode=root")
    if include:
        command.append("--include=" + ",".join(include))
    if recipe.keyring:
        command.append(f"--keyring={recipe.keyring}")
    if recipe.slim:
        command += [f"--dpkgopt={option}" for option in _SLIM]
    if settings:
        command.append(f'--setup-hook=cp {shlex.quote(settings)} "$1/{_HOST_SETTINGS}"')
    if os.path.isdir(_MERGED_USR):
        # The package usr-is-merged instead of usrmerge, which would bring all of Perl.
        command.append(f"--hook-dir={_MERGED_USR}")
    command += ["--skip=chroot/policy-rc.d", f"--essential-hook={_NO_SERVICES}"]
    command += [f"--customize-hook={hook}" for hook in _clean_up_hooks(recipe.slim)]
    return [*command, recipe.suite, "-", *recipe.sources]


def _architecture() -> str:
    machine = os.uname().machine
    return {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "armhf", "i686": "i386"}.get(machine, machine)


def _clean_up_hooks(slim: bool) -> list[str]:
    """Shell commands on the finished tree ("$1"), so that nothing of this host stays in it."""
    hooks = [
        f'rm -f "$1/{_HOST_SETTINGS}" "$1/etc/apt/apt.conf.d/99mmdebstrap"',
        # Empty files: the engine mounts a container's own over them.
        ': > "$1/etc/resolv.conf"; : > "$1/etc/hostname"; : > "$1/etc/machine-id"; rm -f "$1/var/lib/dbus/machine-id"',
        'find "$1/var/log" -type f -exec truncate -s 0 {} +',
        'rm -rf "$1"/var/log/apt/* "$1"/var/cache/ldconfig/aux-cache "$1"/var/cache/debconf/*-old '
        '"$1"/var/lib/dpkg/*-old "$1"/etc/*- "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*.bin',
        f"printf '%s' {shlex.quote(_APT_SETTINGS)} > \"$1/etc/apt/apt.conf.d/90container\"",
    ]
    if slim:
        hooks.append('mv "$1/etc/dpkg/dpkg.cfg.d/99mmdebstrap" "$1/etc/dpkg/dpkg.cfg.d/slim"')
    return hooks


def host_apt_settings(dump: str) -> str:
    """The lines of `apt-config dump` that say how this host reaches its mirrors (proxies, certificates, retries)."""
    lines = []
    for line in dump.splitlines():
        name, _, value = line.partition(" ")
        if name.lower().startswith(_KEPT_APT_ENTRIES) and value not in ('"";', ""):
            lines.append(line)
    return "".join(line + "\n" for line in lines)


def _read_apt_settings() -> str:
    import subprocess

    try:
        done = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return host_apt_settings(done.stdout)


def _bootstrap(invocation: Invocation) -> int:
    import shutil
    import tempfile

    from sampan.oci.reference import parse_reference

    flags = invocation.flags
    reference = parse_reference(invocation.args[0])
    distribution = reference.familiar_name.rpartition("/")[2]
    recipe = Recipe(distribution, reference.tag or "latest", flags["mirror"], flags["security-mirror"])
    program = shutil.which("mmdebstrap")
    if program is None:
        raise Failure(
            "mmdebstrap is not installed: it makes Debian and Ubuntu base images from their packages",
            hint="install it: apt-get install mmdebstrap",
        )
    if recipe.keyring and not os.path.exists(recipe.keyring):
        raise Failure(
            f"{recipe.keyring} is missing: packages of Ubuntu cannot be verified without it",
            hint="install it: apt-get install ubuntu-keyring (or ubuntu-archive-keyring)",
        )
    include = [name for text in flags["include"] for name in text.split(",") if name]
    name = flags["tag"] or f"{distribution}:{recipe.tag}"
    with tempfile.NamedTemporaryFile("w", prefix="sampan-apt-", suffix=".conf") as file:
        settings = _read_apt_settings()
        file.write(settings)
        file.flush()
        os.chmod(file.name, 0o644)
        command = command_line(recipe, program, flags["variant"], include, file.name if settings else "")
        _import(invocation, command, name, recipe, quiet=flags["quiet"])
    return 0


def _import(invocation: Invocation, command: list[str], name: str, recipe: Recipe, *, quiet: bool) -> None:
    from sampan.cli.progress import show_all
    from sampan.oci.reference import parse_reference

    target = parse_reference(name).with_default_tag()
    if not quiet:
        print(
            f"Bootstrapping {target.familiar} from {recipe.sources[0].split()[1]}",
            file=sys.stderr,
            flush=True,
        )
    client = invocation.client()
    client.call("GET", "/version")  # a missing engine is better found before the work than after it
    body = _stream(command, quiet=quiet)
    query = {
        "fromSrc": "-",
        "repo": target.familiar_name,
        "tag": target.tag or "",
        "changes": _CHANGES,
        "message": f"bootstrapped by mmdebstrap: {recipe.suite}",
    }
    show_all(client.messages(client.request("POST", "/images/create", query, body)))


def _stream(command: list[str], *, quiet: bool) -> Iterator[bytes]:
    """mmdebstrap's tar stream; its messages go to standard error. Raises `Failure` when it fails.

    The failure cuts the upload off before its end, so that the engine makes no image of half a tree.
    """
    import subprocess

    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        messages: list[str] = []
        watcher = _watch(process, messages, quiet=quiet)
        pipe = process.stdout
        try:
            while pipe is not None and (data := pipe.read(_CHUNK)):
                yield data
        except BaseException:
            process.terminate()
            raise
        status = process.wait()
        watcher.join()
    if status != 0:
        tail = "\n".join(messages[-15:])
        raise Failure(f"mmdebstrap failed (exit code {status}):\n{tail}")


def _watch(process: subprocess.Popen[bytes], messages: list[str], *, quiet: bool) -> threading.Thread:
    """Read the messages in a thread, and show the steps ("I: ...") as they come."""
    import threading

    def read() -> None:
        for raw in process.stderr or ():
            line = raw.decode("utf-8", "replace").rstrip()
            messages.append(line)
            if line.startswith("I: ") and not quiet and "running --" not in line and "tempdir" not in line:
                print(" " + line[3:], file=sys.stderr, flush=True)
            elif line.startswith("W: ") and not quiet:
                print(" warning: " + line[3:], file=sys.stderr, flush=True)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread


BOOTSTRAP = Command(
    _bootstrap,
    "debian:SUITE[-slim]|ubuntu:SUITE",
    (
        Flag("include", "", "list", "More packages to install, separated by commas"),
        Flag("mirror", "", "string", "Package mirror to use; the image keeps it in its sources"),
        Flag("quiet", "q", "bool", "Show no progress"),
        Flag("security-mirror", "", "string", "Mirror of the security updates"),
        Flag("tag", "t", "string", "Name of the image instead of the distribution's"),
        Flag("variant", "", "string", "Set of packages, as mmdebstrap names it", default="minbase"),
    ),
    minimum=1,
    maximum=1,
    notes="Everything comes from the distribution's own package mirrors by mmdebstrap; no registry is needed.",
)
