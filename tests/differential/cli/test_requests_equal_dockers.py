"""What `create` and other commands send is what Docker's own client sends, zero values aside."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

CREATE = [
    "busybox",
    "busybox sh -c 'echo a b'",
    "-it busybox",
    "-i -a stdin -a stdout busybox cat",
    "--name n -h host --domainname example.org -u 1:2 -w /w busybox",
    "-e A=1 -e FROM_HERE -e UNSET_HERE -e B= busybox",
    "--env-file vars busybox",
    "-l a=b -l c --label-file labels busybox",
    "-p 80 busybox",
    "-p 8080:80 -p 127.0.0.1:53:53/udp -p 9000-9002:90-92 busybox",
    "-p 8000-8010:80 busybox",
    "-p 127.0.0.1::80 busybox",
    "-p [::1]:81:81 busybox",
    "-P --expose 80 --expose 90-92/udp busybox",
    "-v /a:/b -v named:/c:ro -v /anonymous busybox",
    "-v ./rel:/b busybox",
    "--mount type=bind,src=/a,dst=/b,readonly,bind-propagation=rslave busybox",
    "--mount type=volume,src=v,target=/v,volume-nocopy,volume-label=a=b,volume-driver=local,volume-opt=o=x busybox",
    "--mount type=tmpfs,dst=/t,tmpfs-size=64m,tmpfs-mode=1770 busybox",
    "--tmpfs /t --tmpfs /u:size=1m,mode=700 busybox",
    "--group-add 5 --group-add audio busybox",
    "--entrypoint /bin/cat busybox /etc/passwd",
    "--entrypoint= busybox x",
    "--network none busybox",
    "--network host busybox",
    "--network net1 --network-alias a1 --network-alias a2 --ip 10.1.2.3 busybox",
    "--network name=net1,alias=x,driver-opt=k=v busybox",
    "--network container:abc busybox",
    "--link a:b --link c busybox",
    "--network net1 --link a:b busybox",
    "--mac-address 92:d0:c6:0a:29:33 busybox",
    "--dns 1.1.1.1 --dns-search a.b --dns-option ndots:2 --add-host h:1.2.3.4 --add-host g:host-gateway busybox",
    "--dns-opt timeout:3 --dns-option rotate --dns-opt attempts:2 --dns-opt rotate busybox",
    "--net net1 --net-alias a1 --network-alias a2 --net-alias a3 busybox",
    "--dns-search . busybox",
    "-m 512m --memory-reservation 256m --memory-swap 1g --memory-swappiness 10 busybox",
    "--memory-swap -1 -m 1.5g busybox",
    "--cpus 1.5 -c 512 --cpu-period 100000 --cpu-quota 50000 --cpuset-cpus 0-1 --cpuset-mems 0 busybox",
    "--cpu-rt-period 10 --cpu-rt-runtime 5 --pids-limit 100 busybox",
    "--pids-limit -1 busybox",
    "--ulimit nofile=1024:2048 --ulimit core=0 busybox",
    "--shm-size 64m --read-only --init busybox",
    "--init=false busybox",
    "--restart always busybox",
    "--restart on-failure:3 busybox",
    "--restart unless-stopped busybox",
    "--rm busybox",
    "--cap-add NET_ADMIN --cap-drop ALL --privileged busybox",
    "--security-opt no-new-privileges --security-opt label=disable busybox",
    "--security-opt seccomp=profile.json busybox",
    "--security-opt seccomp=unconfined --security-opt systempaths=unconfined busybox",
    "--device /dev/null --device /dev/zero:/dev/z:r --device /dev/full:rw busybox",
    "--device-cgroup-rule 'c 1:3 rwm' busybox",
    "--device-read-bps /dev/sda:1mb --device-write-iops /dev/sda:100 busybox",
    "--blkio-weight 300 --blkio-weight-device /dev/sda:200 busybox",
    "--sysctl net.ipv4.ip_forward=1 --sysctl kernel.shmmax=1 busybox",
    "--ipc host --pid host --uts host --userns host --cgroupns private --cgroup-parent /p busybox",
    "--ipc shareable --pid container:abc busybox",
    "--stop-signal TERM --stop-timeout 5 busybox",
    "--stop-timeout 0 busybox",
    "--health-cmd 'exit 0' --health-interval 10s --health-timeout 1m30s --health-retries 3 busybox",
    "--health-start-period 500ms --health-cmd x busybox",
    "--no-healthcheck busybox",
    "--log-driver json-file --log-opt max-size=1m --log-opt max-file=3 busybox",
    "--platform linux/amd64 busybox",
    "--oom-kill-disable --oom-score-adj 100 busybox",
    "--runtime crun --volume-driver local --volumes-from x:ro --storage-opt size=1G busybox",
    "--gpus all busybox",
    "--gpus 2 busybox",
    "--cidfile id busybox",
    "-ti --rm=false --tty=false busybox",
    "-- busybox --flag-of-command",
    "busybox -x --rm",
]


def significant(value: Any) -> Any:
    """A JSON value without what is zero anyway: null, false, 0, "", [] and {}."""
    if isinstance(value, dict):
        cleaned = {key: significant(item) for key, item in value.items()}
        # An empty object as a value means something in sets like ExposedPorts and Volumes.
        return {
            key: item
            for key, item in cleaned.items()
            if item not in (None, False, 0, "", [], [0, 0])
            and not (item == {} and not key.startswith("/") and "/" not in key)
        }
    if isinstance(value, list):
        return [significant(item) for item in value]
    return value


@pytest.fixture
def place(tmp_path: Path) -> Path:
    directory = tmp_path / "place"
    directory.mkdir()
    (directory / "vars").write_text("# comment\nX=1\n  Y=two words\nFROM_HERE\nUNSET_HERE\nZ=\n")
    (directory / "labels").write_text("one=1\n# no\ntwo\n")
    (directory / "profile.json").write_text('{\n  "defaultAction": "SCMP_ACT_ALLOW",\n "syscalls": []\n}')
    return directory


@pytest.mark.parametrize("line", CREATE)
def test_create_sends_the_same_container(recording: Any, place: Path, line: str) -> None:
    if "./rel" in line:
        pytest.skip("Debian's docker 20.10 does not know relative sources yet")
    arguments = ["create", *shlex.split(line)]
    theirs = recording.of(recording.pair.docker, *arguments, cwd=place)[-1]
    (place / "id").unlink(missing_ok=True)
    ours = recording.of(recording.pair.sampan, *arguments, cwd=place)[-1]
    assert ours["path"] == theirs["path"]
    assert parse_qs(ours["query"]) == parse_qs(theirs["query"])
    expected = significant(json.loads(theirs["body"]))
    given = significant(json.loads(ours["body"]))
    for body in (given, expected):
        # Docker's client keeps these in a map: their order is by chance (seen for Env, too).
        body["Env"] = sorted(body.get("Env") or ())
        for name, key in (("Ulimits", "Name"), ("Binds", None)):
            if name in body["HostConfig"]:
                body["HostConfig"][name].sort(key=lambda item, key=key: item[key] if key else item)
    if "--mac-address" in line:
        # Newer engines want it at the endpoint; ours is sent in both places.
        del given["NetworkingConfig"]
    assert given.pop("HostConfig") == expected.pop("HostConfig")
    assert given == expected


OTHERS = [
    "stop -t 3 a",
    "restart a",
    "kill -s HUP a",
    "rm -fv a",
    "pause a",
    "rename a b",
    "rmi -f img:1",
    "tag busybox host:5000/a/b:c",
    "network create --subnet 10.1.0.0/16 --gateway 10.1.0.1 --ip-range 10.1.4.0/24 --internal --label a=b -o k=v n",
    "network connect --ip 10.1.2.3 --alias x n c",
    "network disconnect -f n c",
    "network rm n",
    "volume create -d local --label a=b -o type=tmpfs v",
    "volume rm -f v",
    "update -m 100m --cpus 2 --restart always c",
    "commit -a me -m text -c 'CMD [\"x\"]' c repo:tag",
    "ps -a --filter label=a=b --filter status=exited",
    "ps -n 3",
    "ps -s",
]


@pytest.mark.parametrize("line", OTHERS)
def test_other_commands_send_the_same_request(recording: Any, place: Path, line: str) -> None:
    if line.startswith("ps"):
        # The recorder's answer is no list; only the request counts.
        recording.server.requests.clear()
        recording.pair.docker.run(*shlex.split(line))
        theirs = recording.server.requests[-1]
        recording.server.requests.clear()
        recording.pair.sampan.run(*shlex.split(line))
        ours = recording.server.requests[-1]
    else:
        theirs = recording.of(recording.pair.docker, *shlex.split(line), cwd=place)[-1]
        ours = recording.of(recording.pair.sampan, *shlex.split(line), cwd=place)[-1]
    assert (ours["method"], ours["path"]) == (theirs["method"], theirs["path"])
    assert _query(ours["query"]) == _query(theirs["query"])
    if theirs["body"].strip() not in (b"", b"null"):
        assert significant(json.loads(ours["body"])) == significant(json.loads(theirs["body"]))


def _query(text: str) -> dict[str, list[str]]:
    query = parse_qs(text)
    for name, meaningless in (("force", "0"), ("link", "0"), ("v", "0"), ("pause", "1")):
        if query.get(name) == [meaningless]:
            del query[name]
    return query


def test_a_build_sends_the_same_query(recording: Any, place: Path) -> None:
    (place / "Dockerfile").write_text("FROM busybox\n")
    line = (
        "build -t a:1 -t b --build-arg X=1 --build-arg FROM_HERE --build-arg UNSET --label l=1 --no-cache --pull "
        "--target t --network host --add-host h:1.2.3.4 -m 1g --shm-size 64m --ulimit nofile=10:20 "
        "--cache-from x,y --platform linux/amd64 --cpuset-cpus 0 ."
    )
    recording.server.requests.clear()
    recording.pair.docker.run(*shlex.split(line), cwd=place)
    theirs = recording.server.requests[-1]
    recording.server.requests.clear()
    recording.pair.sampan.run(*shlex.split(line), cwd=place)
    ours = recording.server.requests[-1]
    assert ours["path"] == theirs["path"]
    given, expected = _build_query(ours["query"]), _build_query(theirs["query"])
    assert given == expected


def _build_query(text: str) -> dict[str, Any]:
    query: dict[str, Any] = dict(parse_qs(text))
    for name in ("buildargs", "labels", "cachefrom", "ulimits"):
        value = json.loads(query.get(name, ["null"])[0])
        query[name] = value
    zeros = ("0", "", "{}", "[]", "null")
    return {
        name: value
        for name, value in query.items()
        if name not in ("session", "buildid") and value not in ([zero] for zero in zeros) and value
    }
