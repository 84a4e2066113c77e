"""Dockerfiles of every feature of the language, built by the newest Docker and by sampan: same configuration, history
and files.

SAMPAN_NEWEST_DOCKER is the command that runs a docker client with buildx, on an engine that needs no images. Its
client must see the same temporary directories.
"""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

COMMAND = shlex.split(os.environ.get("SAMPAN_NEWEST_DOCKER", ""))
BUSYBOX = "/bin/busybox"

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not COMMAND, reason="SAMPAN_NEWEST_DOCKER names no docker client with buildx"),
]

_SHELL = 'COPY busybox /bin/busybox\nSHELL ["/bin/busybox", "sh", "-c"]\n'

CASES = {
    "variables": """ARG BASE=scratch EARLY=e
FROM ${BASE} AS first
ARG EARLY
ENV A=1 B="two words" C=th\\ ree D='$A' E=$A
ENV OLD the whole  rest
ENV A=2 F=$A
ENV G=${A:-x}${NONE:-y}${NONE-z} H=${A:+set}${NONE:+set}. I="${B#two }" J="${B%% *}" K=${B/o/0} L=${B//o/0}
ENV 한국어=값 M=$한국어
ARG N=${EARLY}-n TARGETARCH TARGETSTAGE
ENV O=$N P=$TARGETARCH Q=$TARGETSTAGE
ARG A=from-arg
ENV R=$A
FROM first
ARG N
ENV S=$N T=$EARLY
COPY a.txt /
LABEL a=b "c d"='e $A' f=$A g="x\\
y"
""",
    "settings": """FROM scratch
WORKDIR /a
WORKDIR b/../c
WORKDIR ./d//
USER 1000:33
EXPOSE 80 443/TCP 9000-9002/udp 80
ENV PORTS="7 8"
EXPOSE $PORTS
VOLUME ["/v 1", "/v2"]
VOLUME /v3 /v4
STOPSIGNAL SIGRTMIN+3
HEALTHCHECK --interval=1m30s --timeout=5s --start-period=2s --retries=4 CMD curl -f "http://x"
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ENTRYPOINT exec top -b
CMD ["-c", "é"]
MAINTAINER Some One <some@example.com>
ONBUILD COPY a /b
ONBUILD RUN echo $A \\
  b
ONBUILD RUN <<EOF
one
EOF
""",
    "commands": """FROM scratch AS one
COPY a.txt /
CMD ["before"]
ENTRYPOINT ["after"]
FROM one
ENTRYPOINT [ "not json' ]
HEALTHCHECK NONE
""",
    "copies": """FROM scratch
COPY . /all/
COPY d /d
COPY d/sub /e/f
COPY *.txt /txt/
COPY a.tx? /g
COPY --chmod=640 a.txt d/x.sh /h/
COPY --chmod=u=rwX,go=rX . /i/
COPY --chmod=+x a.txt /j
COPY --chmod=g=u,o= d /k/
COPY --chmod=750 d /k2/k3/
COPY --chmod=u=rwx,go=rx a.txt /k4/
COPY --chown=7:8 d /l/
COPY --chown=9 a.txt /m/
COPY --link d /r/
COPY --link --chmod=600 a.txt /s/t
COPY ["a.txt", "/with space/"]
ADD a.txt d /u/
ADD data.tar.gz /v/
ADD --unpack=false data.tar.gz /w/
ADD --chown=3:4 data.tar.gz /x/
WORKDIR /rel
COPY a.txt .
COPY a.txt sub/
COPY a.txt other
""",
    "documents": """FROM scratch
ENV A=value
COPY <<one <<"two" <<-three /h/
$A "q" 'r' \\$A \\\\ \\n
one
$A \\n
two
	tab $A
		two
	three
COPY <<EOF /single
x
EOF
COPY --chmod=755 --chown=1:2 <<EOF /k/script
#!/bin/sh
EOF
"""
    + _SHELL
    + """RUN <<EOF
echo "plain $A" > /bin/out1
EOF
RUN <<-'EOF'
	echo "tabs $A" > /bin/out2
EOF
RUN cat_() { /bin/busybox cat; }; cat_ <<A > /bin/out3; cat_ <<"B" > /bin/out4
expanded $A
A
literal $A
B
RUN <<EOF
#!/bin/busybox sh
echo script > /bin/out5
EOF
RUN echo a \\
# comment

  b > /bin/out6
RUN ["/bin/busybox", "touch", "/bin/$A"]
ARG Z=z Y
RUN echo $Z-$Y > /bin/out7
""",
    "stages": """FROM scratch AS One
COPY a.txt /a
ENV X=1
FROM one AS two
COPY b.txt /b
FROM scratch
COPY --from=One /a /from-one
COPY --from=1 / /two
COPY --from=two b /rel
""",
    "corners": """FROM scratch AS first
COPY a.txt /
FROM scratch AS Last
ARG TARGETSTAGE A=${NONE:-default}
ENV S=$TARGETSTAGE E=xaxa N=2147483648
ENV F=${E//*/z} G=${E//a*/z} H=${E/x/} I="${E%"a"}" J=${E##'x'}
LABEL $NONE=unnamed 'a b'=c
VOLUME [" /v ", "$E"]
EXPOSE 1 ${NONE:-""} 2-3/udp
COPY --from=FIRST a.txt /dot/.
COPY --link --chmod=600 a.txt /dot/linked
ADD d data.tar.gz b.txt /sources/
COPY --exclude='*.sh' --exclude="s?b" d /without/
HEALTHCHECK --retries=2147483647 --start-interval=1s CMD x
HEALTHCHECK --interval=3s NONE
ENTRYPOINT
CMD
""",
    "escape": '# escape=`\nFROM scratch\nENV A=c:\\x B=`$A C="q`"q"\nCOPY a.txt `\n  /x\nLABEL l=a`\n b=c\n',
}


def _context(folder: Path) -> None:
    for name, text, mode in (
        ("a.txt", "a", 0o644),
        ("b.txt", "b", 0o600),
        ("d/x.sh", "x", 0o755),
        ("d/sub/deep.txt", "deep", 0o664),
        ("d/sub/other", "other", 0o640),
        (".hidden", "h", 0o644),
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
    (folder / "d/sub").chmod(0o2750)
    (folder / "d/link").symlink_to("sub/deep.txt")
    shutil.copy(BUSYBOX, folder / "busybox")
    with tarfile.open(folder / "data.tar.gz", "w:gz") as tar:
        for name, kind in (("t", tarfile.DIRTYPE), ("t/file", tarfile.REGTYPE), ("t/sym", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.uid, info.gid, info.mode, info.linkname = kind, 5, 6, 0o751, "file"
            tar.addfile(info)


def _docker(*arguments: str) -> None:
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr.decode()[-3000:]


def _image(path: Path) -> tuple[dict[str, Any], list[str], dict[str, Any]]:
    """Configuration, history and files of a saved image."""
    with tarfile.open(path) as tar:

        def read(name: str) -> bytes:
            file = tar.extractfile(name)
            assert file is not None
            return file.read()

        manifest = json.loads(read("manifest.json"))[0]
        config = json.loads(read(manifest["Config"]))
        files: dict[str, Any] = {}
        for layer in manifest["Layers"]:
            with tarfile.open(fileobj=io.BytesIO(read(layer))) as one:
                for member in one:
                    name = member.name.strip("/").removeprefix("./")
                    if name in ("", "."):
                        continue
                    content = one.extractfile(member) if member.isreg() else None
                    size = content.read() if content else b""
                    what = size if len(size) < 4096 else len(size)
                    files[name] = (
                        member.type,
                        oct(member.mode),
                        member.uid,
                        member.gid,
                        member.linkname,
                        what,
                    )
    settings = {key: value for key, value in config["config"].items() if value}
    settings.pop("ArgsEscaped", None)
    if settings.get("WorkingDir") == "/":
        del settings["WorkingDir"]  # docs/compatibility.md: "WorkingDir of FROM scratch"
    for name in ("dev", "proc", "sys"):
        files.pop(name, None)  # mount points that Docker's steps leave behind
    history = [_plain(step.get("created_by", "")) for step in config["history"]]
    return settings, history, files


def _plain(step: str) -> str:
    """Without what docs/compatibility.md names: our history tells more of COPY, Docker's tells a health check in Go."""
    if step.startswith("HEALTHCHECK"):
        return "HEALTHCHECK"
    return re.sub(r" --(?:from|link|exclude|unpack|checksum|keep-git-dir)=\S+", "", step)


@pytest.mark.parametrize("name", CASES)
def test_a_dockerfile_means_what_it_means_to_docker(name: str, tmp_path: Path, sampan: Any) -> None:
    context = tmp_path / "context"
    context.mkdir()
    _context(context)
    (context / ".dockerignore").write_text("Dockerfile\n.dockerignore\n")
    (context / "Dockerfile").write_text(CASES[name])
    theirs, ours = tmp_path / "theirs.tar", tmp_path / "ours.tar"
    arguments = ("--build-arg", "SOURCE_DATE_EPOCH=0", "--provenance=false", str(context))
    tag = f"sampan-language/{name}"
    _docker("build", "-t", tag, *arguments)
    try:
        _docker("save", "-o", str(theirs), tag)
    finally:
        _docker("rmi", tag)
    sampan.ok("build", "--output", f"type=docker,dest={ours}", *arguments, timeout=120)
    expected, got = _image(theirs), _image(ours)
    assert got[0].pop("Env", []) == expected[0].pop("Env", [])
    assert got[0] == expected[0]
    assert got[2] == expected[2]
    assert got[1] == expected[1]
