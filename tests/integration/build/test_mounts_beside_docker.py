"""What a step sees of its mounts, under the newest Docker and under sampan: the same lines.

SAMPAN_NEWEST_DOCKER is the command that runs a docker client with buildx, on an engine that needs no images. Its
client must see the same temporary directories.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

COMMAND = shlex.split(os.environ.get("SAMPAN_NEWEST_DOCKER", ""))

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not COMMAND, reason="SAMPAN_NEWEST_DOCKER names no docker client with buildx"),
]

DOCKERFILE = """FROM scratch AS base
COPY busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
FROM base AS one
RUN mkdir -p /t/sub && echo s > /t/sub/f && echo a > /a && chown 5:6 /a
FROM base
WORKDIR /w
RUN --mount=type=secret,id=token stat -c "A %a %u %g %s" /run/secrets/token; stat -c "A2 %a %u %g" /run/secrets; \\
    grep " /run/secrets/token " /proc/mounts | cut -d' ' -f4 | cut -d, -f1-5 | sed 's/^/A3 /'
RUN --mount=type=secret,id=token,target=s,mode=0644,uid=3 stat -c "B %a %u %g" /w/s s
RUN --mount=type=secret,id=token,env=T echo "C $T"; ls /run/secrets 2>&1 | sed "s/^/C2 /"
RUN --mount=type=secret,id=none,env=N echo "E ${N-unset}"; ls /run/secrets 2>&1 | sed "s/^/E2 /"
RUN --mount=type=secret,source=token stat -c "F %n" /run/secrets/token
RUN --mount=type=cache,target=c1,id=ID1 stat -c "G %n %a %u %g" /w/c1
RUN --mount=type=cache,target=/c2,mode=0700,uid=4,gid=5,id=ID2 stat -c "H %a %u %g" /c2; echo h > /c2/h
RUN --mount=type=cache,target=/c2,id=ID2 ls /c2 | sed 's/^/I /'
RUN --mount=type=cache,target=/c3,from=one,source=/t,id=ID3 ls /c3 | sed 's/^/J /'; echo n > /c3/n
RUN --mount=type=cache,target=/c3,from=one,source=/t,id=ID3 ls /c3 | sed 's/^/J2 /'
RUN --mount=type=tmpfs,target=/t stat -c "K %a %u %g" /t; grep " /t " /proc/mounts | cut -d' ' -f3,4 | sed 's/^/K2 /'
RUN --mount=type=tmpfs,target=/t,size=64k grep " /t " /proc/mounts | cut -d' ' -f4 | sed 's/^/L /'
RUN --mount=type=bind,target=/b stat -c "M %a %u %g" /b /b/f; touch /b/x 2>&1 | sed 's/^/M2 /'
RUN --mount=type=bind,target=/b,rw touch /b/x && ls /b | sed 's/^/N /'
RUN --mount=type=bind,target=/b ls /b | sed 's/^/N2 /'
RUN --mount=type=bind,from=one,source=a,target=/b/a stat -c "O %a %u %g" /b/a; ls -ld /b | cut -c1-10 | sed 's/^/O2 /'
RUN --mount=source=d cat /w/x | sed 's/^/P /'
RUN --mount=type=ssh echo "Q $SSH_AUTH_SOCK"; stat -c "Q2 %F %a %u %g" $SSH_AUTH_SOCK
RUN --mount=type=ssh,id=none echo "R $SSH_AUTH_SOCK"; ls $SSH_AUTH_SOCK 2>&1 | sed "s/^/R2 /"
RUN --mount=type=ssh,target=/s,mode=0666,uid=3 echo "S $SSH_AUTH_SOCK"; stat -c "S2 %a %u %g" /s
"""


def seen(text: str) -> list[str]:
    """The lines that steps wrote, out of `--progress plain`, in the order of the steps' letters."""
    return sorted(
        found[1] for line in text.splitlines() if (found := re.match(r"#\d+ [\d.]+ ([A-Z]\d? .*)", line))
    )


def test_steps_see_the_same_of_their_mounts(sampan: Any, tmp_path: Path) -> None:
    context = tmp_path / "context"
    (context / "d").mkdir(parents=True)
    (context / "d/x").write_text("x\n")
    (context / "f").write_text("f\n")
    os.chown(context / "f", 1000, 1000)
    shutil.copy("/bin/busybox", context / "busybox")
    (tmp_path / "token").write_text("tok-123")
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    (context / "Dockerfile").write_text(DOCKERFILE.replace("id=ID", f"id={secrets.token_hex(6)}-"))
    flags = ["--no-cache", "--progress", "plain", "--secret", f"id=token,src={tmp_path}/token"]
    flags += ["--ssh", f"default={key}", str(context)]
    theirs = subprocess.run([*COMMAND, "build", *flags], capture_output=True, text=True, check=False)
    assert theirs.returncode == 0, theirs.stderr
    ours = sampan.run("build", *flags, timeout=120)
    assert ours.returncode == 0, ours.stderr
    assert seen(ours.stdout + ours.stderr) == seen(theirs.stdout + theirs.stderr)
    assert len(seen(theirs.stdout + theirs.stderr)) > 30
