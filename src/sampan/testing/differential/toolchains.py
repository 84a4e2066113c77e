"""A base image with the toolchains of many languages, made once of Debian's packages, kept outside the checkout."""

from __future__ import annotations

import fcntl
import os
import subprocess
from pathlib import Path

PACKAGES = (
    "ca-certificates", "python3-pip", "python3-venv", "nodejs", "npm", "golang-go", "rustc", "cargo", "gcc", "make",
    "libc6-dev", "maven", "default-jdk-headless", "libmaven-resources-plugin-java",
    "libmaven-compiler-plugin-java", "libmaven-jar-plugin-java", "libsurefire-java",
)  # fmt: skip
MIRROR = "http://deb.debian.org/debian"


def toolchains_root() -> Path:
    """The tar of its root file system, below `SAMPAN_TEST_CACHE` (~/.cache/sampan-tests). A minute when it is missing.

    Raises RuntimeError when mmdebstrap fails.
    """
    cache = Path(os.environ.get("SAMPAN_TEST_CACHE") or Path.home() / ".cache/sampan-tests")
    cache.mkdir(parents=True, exist_ok=True)
    target, partial = cache / "fat.tar", cache / "fat.partial.tar"
    with open(cache / "fat.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.exists():
            return target
        done = subprocess.run(_command(partial), capture_output=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"mmdebstrap: {done.stderr.decode('utf-8', 'replace')[-3000:]}")
        partial.rename(target)
    return target


def _command(target: Path) -> list[str]:
    return [
        "mmdebstrap", "--variant=minbase", "--mode=root",
        "--aptopt=APT::Install-Recommends \"false\"", "--aptopt=Acquire::Languages \"none\"",
        "--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/locale/*",
        "--dpkgopt=force-unsafe-io",
        # Java's packages make links there.
        '--essential-hook=mkdir -p "$1/usr/share/man/man1"',
        f"--include={','.join(PACKAGES)}", "bookworm", str(target), MIRROR,
    ]  # fmt: skip
