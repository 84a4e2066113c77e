"""What the flags of `run` do inside the container: identity, file systems, devices, rights, limits, namespaces."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sampan.testing.differential.case import Case

pytestmark = pytest.mark.root

# Of a mount: place, options, type and the file system's own options, without what tells of the engine's directories.
MOUNTS = (
    "cut -d' ' -f5- /proc/self/mountinfo | grep -v '^/sys/fs/cgroup ' | sed -E 's/ (shared|master):[0-9]+//'"
)
OVERLAY = {
    r"overlay overlay .*": "overlay",
    r"cgroup (systemd|cgroup) rw,": "cgroup rw,",
    r"(lowerdir|upperdir|workdir)=\S+": r"\1",
}
STATUS = "grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp:|Umask|SigIgn|SigBlk|Cpus_allowed_list)' /proc/self/status"


def inside(name: str, command: str, *variants: str, kind: str = "all", **more: object) -> Case:
    """The same command line in a container once for each variant of run's flags."""
    lines = [f"{kind}: {{cli}} run --rm {flags} busybox {command}" for flags in variants or ("",)]
    return Case(name, "\n".join(lines), **more)  # type: ignore[arg-type]


IDENTITY = [
    inside("the default environment", "env", but={r"HOSTNAME=\S+": "HOSTNAME=<host>"}, kind="sorted"),
    inside(
        "-e, --env-file and what is taken from the caller",
        "env",
        "--hostname h -e A=1 -e B= -e FROM_HERE -e UNSET_HERE -e 'C=two words'",
        "--hostname h -e PATH=/bin -e HOME=/x -e HOSTNAME=y",
        "--hostname h -t",
        "--hostname h -t -e TERM=dumb",
        kind="sorted",
    ),
    Case(
        "--env-file",
        """
        setup: printf '# comment\\nX=1\\nY=two words\\nFROM_HERE\\nUNSET_HERE\\nZ=\\n' > vars
        sorted: {cli} run --rm --hostname h --env-file vars -e X=2 busybox env
        """,
    ),
    inside(
        "users by name and number, with and without a group",
        "sh -c 'id; pwd; echo $HOME'",
        "-u 1",
        "-u daemon",
        "-u nobody:daemon",
        "-u 1234",
        "-u 1234:4321",
        "-u 0:1",
        "-u root --group-add 7 --group-add daemon",
        "-u 12:13 --group-add nogroup",
    ),
    inside(
        "a user who does not exist is refused",
        "id",
        "-u nosuch",
        "-u 0:nosuch",
        "--group-add nosuch",
        kind="code",
    ),
    inside("status of root", f'sh -c "{STATUS}"'),
    inside("status of another user", f'sh -c "{STATUS}"', "-u 1000", "-u daemon --cap-add NET_ADMIN"),
    inside(
        "the working directory, made when it is not there",
        "sh -c 'pwd; stat -c \"%A %u %g\" .'",
        "-w /made/here",
        "-w /tmp",
        but={r"\w{3} +\d+ +\d\d:\d\d": "<date>"},
    ),
    inside("a relative working directory is refused", "pwd", "-w rel"),
    inside(
        "hostname and domain name",
        "sh -c 'hostname; cat /etc/hostname; hostname -f; cat /proc/sys/kernel/domainname'",
        "--hostname web",
        "--hostname web --domainname example.org",
        "--hostname web.example.org",
        kind="out",
    ),
    inside(
        "hosts of an isolated container",
        "cat /etc/hosts",
        "--network none --hostname h",
        "--network none --hostname h --add-host db:10.0.0.9 --add-host six:::1",
    ),
    inside(
        "hosts of a container on the bridge",
        "cat /etc/hosts",
        "--hostname h",
        "--hostname h.example.org --add-host a:1.2.3.4",
    ),
    inside(
        "resolv.conf by flags",
        "cat /etc/resolv.conf",
        "--dns 1.1.1.1 --dns-search example.org --dns-opt ndots:3",
        "--dns 1.1.1.1 --dns 8.8.8.8",
        "--dns 9.9.9.9 --dns-search .",
        "--network none",
        kind="sorted",
        but={"(?m)^#.*\n": ""},
    ),
    inside(
        "network interfaces of each mode",
        "sh -c 'ls /sys/class/net; ip -o link | wc -l'",
        "--network none",
        "",
    ),
    inside("a MAC address given", "cat /sys/class/net/eth0/address", "--mac-address 92:d0:c6:0a:29:33"),
    inside(
        "loopback works without network",
        "sh -c 'ip addr show lo | grep -v inet6 | grep -v forever; ip route'",
        "--network none",
    ),
]

FILES = [
    inside("default mounts and their options", f'sh -c "{MOUNTS}"', but=OVERLAY),
    inside(
        "mounts with a terminal", f'sh -c "{MOUNTS}"', "-t", but={**OVERLAY, r"/dev/pts/\d+": "/dev/pts/N"}
    ),
    inside("mounts of a privileged container", f'sh -c "{MOUNTS}"', "--privileged -u 5", but=OVERLAY),
    inside("mounts of a read-only container", f'sh -c "{MOUNTS}"', "--read-only", but=OVERLAY),
    inside("mounts with a cgroup namespace", f'sh -c "{MOUNTS}"', "--cgroupns private", but=OVERLAY),
    inside(
        "tmpfs mounts",
        "sh -c \"grep ' /t' /proc/self/mounts; ls -ld /t\"",
        "--tmpfs /t",
        "--tmpfs /t:size=1m,mode=700,uid=5",
        "--tmpfs /t:ro",
        "--tmpfs /t:exec,suid,dev",
        "--mount type=tmpfs,dst=/t",
        "--mount type=tmpfs,dst=/t,tmpfs-size=2m,tmpfs-mode=1770",
        but={r"\w{3} +\d+ +\d\d:\d\d": "<date>"},
    ),
    Case(
        "bind mounts, their options and propagation",
        r"""
        setup: mkdir dir && echo f > dir/f
        out: {cli} run --rm -v $PWD/dir:/m busybox sh -c 'grep " /m " /proc/self/mountinfo | cut -d" " -f5-7; cat /m/f'
        out: {cli} run --rm -v $PWD/dir:/m:ro busybox sh -c 'touch /m/x; grep " /m " /proc/self/mountinfo | cut -d" " -f5-7'
        out: {cli} run --rm -v $PWD/dir/f:/file busybox cat /file
        out: {cli} run --rm -v $PWD/new:/m busybox sh -c 'ls -ld /m | cut -c1-10'
        out: {cli} run --rm --mount type=bind,src=$PWD/dir,dst=/m,readonly busybox sh -c 'touch /m/x; echo $?'
        """,
        but={r"ext4|overlay": "<fs>", r"/[^ ]*/dir": "<dir>"},
    ),
    inside(
        "a read-only root and what stays writable",
        "sh -c 'touch /x; touch /dev/shm/y && echo shm; touch /etc/hosts && echo hosts; touch /tmp/z'",
        "--read-only",
        "--read-only --tmpfs /tmp",
        kind="all",
    ),
    inside(
        "the devices, their numbers and modes",
        "sh -c 'cd /dev && stat -c \"%n %F %a %t:%T %u:%g\" * pts/ptmx'",
    ),
    inside(
        "the devices with a terminal",
        "sh -c 'cd /dev && stat -c \"%n %F %a %u:%g\" *; readlink fd stdin stdout stderr ptmx; tty'",
        "-t",
    ),
    inside(
        "given devices",
        "sh -c 'stat -c \"%n %t:%T %a\" /dev/z; echo x > /dev/z; head -c 1 /dev/z | wc -c'",
        "--device /dev/zero:/dev/z",
        "--device /dev/zero:/dev/z:r",
        "--device /dev/zero:/dev/z:w",
        kind="out",
    ),
    inside(
        "mknod is allowed, use only by rule",
        "sh -c 'mknod /x c 1 5 && head -c 1 /x | wc -c; mknod /k c 1 11 && head -c 1 /k'",
        "",
        "--device-cgroup-rule 'c 1:11 r'",
        "--cap-drop MKNOD",
        kind="code",
    ),
    inside(
        "the size of /dev/shm",
        "sh -c \"grep ' /dev/shm' /proc/self/mounts\"",
        "",
        "--shm-size 1m",
        "--shm-size 1g",
    ),
    inside(
        "masked and read-only paths",
        "sh -c 'for p in /proc/kcore /proc/keys /proc/timer_list /proc/sched_debug /proc/scsi"
        " /sys/firmware /proc/acpi; do [ -e $p ] && echo $p $(stat -c %t:%T:%F $p) $(ls -A $p 2>/dev/null | wc -l); done;"
        " for p in /proc/sys /proc/bus /proc/fs /proc/irq /proc/sysrq-trigger; do"
        ' grep -q " $p .*ro" /proc/self/mountinfo && echo ro $p; done; true\'',
        "",
        "--security-opt systempaths=unconfined",
        "--privileged -u 5",
    ),
    inside(
        "volumes are filled from the image",
        "sh -c 'ls -ln /etc/passwd /etc/group | cut -c1-10; cat /etc/passwd | wc -l'",
        "-v /etc",
    ),
    inside(
        "sysctls",
        "sh -c 'cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ping_group_range"
        " /proc/sys/kernel/shmmax /proc/sys/net/core/somaxconn'",
        "",
        "--sysctl net.core.somaxconn=77 --sysctl kernel.shmmax=12345",
        "--sysctl net.ipv4.ip_unprivileged_port_start=1024",
    ),
    inside(
        "sysctls of the host are refused",
        "true",
        "--sysctl vm.swappiness=1",
        "--sysctl nodot",
        "--network host --sysctl net.core.somaxconn=1",
        "--ipc host --sysctl kernel.shmmax=1",
        kind="code",
    ),
]

RIGHTS = [
    inside(
        "capabilities by default and by flags",
        "grep Cap /proc/self/status",
        "",
        "--cap-drop ALL",
        "--cap-add NET_ADMIN",
        "--cap-add CAP_SYS_PTRACE --cap-drop chown",
        "--cap-drop ALL --cap-add NET_BIND_SERVICE",
        "--cap-drop ALL --cap-add SYS_ADMIN",
    ),
    inside(
        "capabilities of another user",
        "grep Cap /proc/self/status",
        "-u 5",
        "-u 5 --cap-add NET_ADMIN",
        "-u 5 --cap-add SYS_ADMIN --cap-drop CHOWN",
    ),
    inside("an unknown capability is refused", "true", "--cap-add NOSUCH", "--cap-drop CAP_NOSUCH"),
    inside(
        "seccomp and no_new_privs",
        "grep -E 'Seccomp:|NoNewPrivs' /proc/self/status",
        "",
        "--security-opt seccomp=unconfined",
        "--security-opt no-new-privileges",
        "--security-opt no-new-privileges:false",
        "--privileged -u 5",
        "--cap-add SYS_ADMIN",
    ),
    inside(
        "what seccomp refuses",
        "sh -c 'unshare -U true; mount -t tmpfs x /mnt; date -s 1; dmesg | head -c 1; chroot / true && echo chroot'",
        "",
        "--cap-add SYS_ADMIN",
        "--cap-add SYS_TIME --cap-drop SYS_CHROOT",
        kind="code",
    ),
    Case(
        "a seccomp profile of one's own",
        """
        setup: echo '{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}' > p.json
        all: {cli} run --rm --security-opt seccomp=p.json busybox mkdir /x
        setup: echo '{"defaultAction":' > bad.json
        code: {cli} run --rm --security-opt seccomp=bad.json busybox true
        code: {cli} run --rm --security-opt seccomp=none.json busybox true
        """,
    ),
    inside(
        "options of security that don't exist",
        "true",
        "--security-opt foo",
        "--security-opt foo=bar",
        "--security-opt no-new-privileges:x",
    ),
]

LIMITS = [
    inside(
        "limits of processes",
        "sh -c 'cat /proc/self/limits'",
        "--ulimit nofile=100:200 --ulimit core=0 --ulimit nproc=55 --ulimit fsize=9",
        "--ulimit cpu=5:10 --ulimit stack=1048576:2097152 --ulimit nofile=128",
        but={
            r"(Max (locked|pending|address|resident|data|msgqueue).*)": "<host>",
            r"Max (realtime|nice).*": "<host>",
        },
    ),
    inside(
        "the score of the OOM killer",
        "cat /proc/self/oom_score_adj",
        "",
        "--oom-score-adj 100",
        "--oom-score-adj 1000",
    ),
    inside("an OOM score out of range is refused", "true", "--oom-score-adj 2000", "--oom-score-adj -1001"),
    inside(
        "limits of memory",
        "sh -c 'cd /sys/fs/cgroup/memory && cat memory.limit_in_bytes memory.memsw.limit_in_bytes memory.soft_limit_in_bytes memory.swappiness'",
        "-m 64m",
        "-m 64m --memory-swap 128m",
        "-m 64m --memory-swap -1",
        "-m 64m --memory-reservation 32m",
        "--memory-reservation 32m",
        "-m 64m --memory-swappiness 0",
        "",
        kind="out",
    ),
    inside(
        "limits of the processor",
        "sh -c 'cd /sys/fs/cgroup/cpu && cat cpu.cfs_period_us cpu.cfs_quota_us cpu.shares; cat /sys/fs/cgroup/cpuset/cpuset.cpus'",
        "",
        "--cpus 0.5",
        "--cpu-period 50000 --cpu-quota 25000",
        "-c 512",
        "--cpuset-cpus 0",
        "--cpuset-cpus 0-1 --cpuset-mems 0",
    ),
    inside(
        "the number of processes",
        "sh -c 'cat /sys/fs/cgroup/pids/pids.max'",
        "",
        "--pids-limit 50",
        "--pids-limit -1",
        "--pids-limit 0",
    ),
    inside(
        "limits that are refused",
        "true",
        "-m 1m",
        "-m 8m --memory-swap 4m",
        "--memory-swap 10m",
        "--cpus 100",
        "--cpus -1",
        "--cpu-period 1",
        "--cpu-quota 1",
        "--cpuset-cpus 99",
        "--cpuset-cpus x",
        "--cpuset-mems 7",
        "-m 10m --memory-reservation 20m",
        "--blkio-weight 5",
        "--cpus 1 --cpu-period 50000",
        "--shm-size -1",
        "--device-read-bps /nosuch:1mb",
        "--memory-swappiness 101",
    ),
    Case(
        "a command that takes too much memory is killed, and it shows",
        """
        code: {cli} run --name {c} -m 16m --memory-swap 16m busybox sh -c 'x=a; while :; do x=$x$x$x$x; done'
        out: {cli} inspect -f '{{.State.OOMKilled}} {{.State.ExitCode}}' {c}
        """,
    ),
]

NAMESPACES = [
    Case(
        "which namespaces are the host's",
        "\n".join(
            f"out: {{cli}} run --rm {flags} busybox sh -c 'for n in cgroup ipc mnt net pid user uts; do readlink /proc/self/ns/$n; done' | "
            'while read l; do readlink /proc/self/ns/${l%%:*} | grep -qxF "$l" && echo $l host || echo own ${l%%:*}; done'
            for flags in (
                "",
                "--ipc host",
                "--pid host",
                "--uts host",
                "--network host",
                "--cgroupns host",
                "--cgroupns private",
                "--privileged -u 5",
                "--network host --pid host --ipc host --uts host",
            )
        ),
        but={r":\[\d+\]": ""},
    ),
    Case(
        "namespaces shared with another container",
        """
        setup: {cli} run -d --name {c} --hostname shared --ipc shareable busybox sleep 1000
        out: {cli} run --rm --network container:{c} busybox sh -c 'hostname; cat /etc/hostname; ls /sys/class/net'
        out: {cli} run --rm --pid container:{c} busybox sh -c 'ps -o pid,args'
        """,
        but={r" +\d+ (\{ps\} .*|sh -c .*|ps .*|sleep)": r"<pid> \1"},
    ),
    Case(
        "shared memory of another container",
        """
        setup: {cli} run -d --name {c} --ipc shareable busybox sleep 1000
        setup: {cli} exec {c} touch /dev/shm/mark
        out: {cli} run --rm --ipc container:{c} busybox ls /dev/shm
        out: {cli} run --rm busybox ls /dev/shm
        """,
    ),
    Case(
        "sharing with what can't be shared",
        """
        setup: {cli} create --name {c} busybox true
        all: {cli} run --rm --network container:{c} busybox true
        all: {cli} run --rm --pid container:{c} busybox true
        code: {cli} run --rm --ipc container:{c} busybox true
        code: {cli} run --rm --network container:nosuch busybox true
        all: {cli} run --rm --network container:{c} --hostname x busybox true
        all: {cli} run --rm --network container:{c} -p 80 busybox true
        all: {cli} run --rm --network container:{c} --dns 1.1.1.1 busybox true
        all: {cli} run --rm --network host --hostname x busybox hostname
        all: {cli} run --rm --uts host --hostname x busybox true
        code: {cli} run --rm --network nosuch busybox true
        """,
    ),
    Case(
        "volumes from another container",
        """
        setup: {cli} create --name {c} -v {c}v:/v -v /anonymous busybox true
        setup: {cli} run --rm --volumes-from {c} busybox touch /v/mark
        out: {cli} run --rm --volumes-from {c}:ro busybox sh -c 'ls /v; touch /v/x'
        all: {cli} run --rm --volumes-from nosuch busybox true
        """,
    ),
    inside("a terminal of its own", "sh -c 'tty; [ -t 0 ] && [ -t 1 ] && echo terminal; stty size'", "-t"),
    inside(
        "no terminal",
        "sh -c 'tty; readlink /proc/self/fd/0 | cut -d: -f1; readlink /proc/self/fd/1 | cut -d: -f1; ls /proc/self/fd | wc -l'",
    ),
    inside("process numbers", "sh -c '[ $$ = 1 ]; echo $?'", "", "--init"),
    inside(
        "the cgroup that is seen",
        "grep -v ^0: /proc/self/cgroup",
        "--cgroupns private",
        "--cgroupns host",
        but={"[0-9]+:([a-z_,=]*):": r"\1:"},
        kind="sorted",
    ),
    inside("sessions and groups", "sh -c 'cut -d\" \" -f5-6 /proc/self/stat; umask; ulimit -c'", "", "-t"),
    inside("signals that are ignored or blocked", "grep -E 'Sig(Ign|Blk|Cgt)' /proc/self/status", "", "-t"),
]

RICH = [
    Case(
        "an image's user, directory, command and environment",
        """
        out: {cli} run --rm rich
        sorted: {cli} run --rm --hostname h rich 'env; pwd; ls -ln /data | cut -c1-30'
        out: {cli} run --rm -u 0 -w / rich 'id -u; pwd'
        out: {cli} run --rm --entrypoint /bin/echo rich a b
        out: {cli} run --rm --entrypoint '' rich echo cleared
        code: {cli} run --rm --entrypoint '' rich
        """,
    ),
    Case(
        "a volume of an image is filled, with its owner and mode",
        """
        out: {cli} run --rm -v {c}v:/data rich 'stat -c "%a %u:%g" /data /data/one /data/sub; cat /data/one'
        out: {cli} run --rm -v {c}v:/elsewhere busybox ls /elsewhere
        out: {cli} run --rm --mount type=volume,src={c}w,dst=/data,volume-nocopy rich 'ls /data'
        """,
    ),
]

CASES = [*IDENTITY, *FILES, *RIGHTS, *LIMITS, *NAMESPACES, *RICH]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_docker_and_sampan_agree(agree: Callable[[Case], None], case: Case) -> None:
    agree(case)
