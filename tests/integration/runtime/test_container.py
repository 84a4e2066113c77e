"""What a container finds inside, and what becomes of it."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sampan.errors import Denied, Invalid, NotFound
from sampan.linux.cgroups import detect
from sampan.oci import spec as oci
from sampan.oci.rootfs import LayerMount, RootAssembly
from sampan.runtime.failure import ExecFailed
from sampan.runtime.messages import INIT_ANNOTATION
from sampan.runtime.shim_client import ShimClient, read_exit

pytestmark = pytest.mark.root


IMAGE = {".", "..", "bin", "etc", "tmp", "proc", "dev", "sys"}


def mount_table(text: str) -> dict[str, tuple[str, str]]:
    """Mount point to (options, type), from mountinfo."""
    result = {}
    for line in text.splitlines():
        head, _, tail = line.partition(" - ")
        fields = head.split()
        if len(fields) > 5:
            result[fields[4]] = (fields[5], tail.split()[0])
    return result


def test_the_exit_code_is_that_of_the_program(harbour: Any) -> None:
    assert harbour.sh("exit 42").record.exit_code == 42


def test_a_program_killed_by_a_signal_has_128_plus_its_number(harbour: Any) -> None:
    box = harbour.create(harbour.spec("sleep", "100"))
    box.shim.start()
    box.shim.kill(9)
    assert box.shim.wait().exit_code == 137


def test_output_goes_to_the_log_with_its_stream(harbour: Any) -> None:
    box = harbour.create(harbour.spec("sh", "-c", "echo out; echo err >&2"))
    box.shim.start()
    box.shim.wait()
    lines = [msgspec.json.decode(line) for line in box.log.read_bytes().splitlines()]
    assert {(line["stream"], line["log"]) for line in lines} == {("stdout", "out\n"), ("stderr", "err\n")}


def test_the_record_of_the_end_is_on_disk_and_the_socket_is_gone(harbour: Any) -> None:
    box = harbour.create(harbour.spec("false"))
    box.shim.start()
    record = box.shim.wait()
    assert read_exit(box.run_dir) == record
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", record.finished_at)
    with pytest.raises(NotFound):
        ShimClient.connect(box.run_dir)


@pytest.mark.parametrize(
    ("program", "code", "words"),
    [
        ("nosuch", 127, 'exec: "nosuch": executable file not found in $PATH'),
        ("/nosuch", 127, 'exec: "/nosuch": stat /nosuch: no such file or directory'),
        ("/etc/passwd", 126, 'exec: "/etc/passwd": permission denied'),
        ("/etc", 126, 'exec: "/etc": is a directory'),
    ],
)
def test_a_program_that_can_not_be_executed_is_told_as_runc_does(
    harbour: Any, program: str, code: int, words: str
) -> None:
    box = harbour.create(harbour.spec(program))
    with pytest.raises(ExecFailed) as caught:
        box.shim.start()
    assert (caught.value.exit_code, caught.value.message) == (code, words)
    assert box.shim.wait().exit_code == code


def test_a_script_without_an_interpreter_is_an_exec_format_error(harbour: Any) -> None:
    root = harbour.assembly("noexec")
    script = Path(root.upper) / "run.me"
    script.write_text("just text\n")
    script.chmod(0o755)
    box = harbour.create(harbour.spec("/run.me"), root=root)
    with pytest.raises(ExecFailed, match=r"exec /run.me: exec format error") as caught:
        box.shim.start()
    assert caught.value.exit_code == 126


def test_namespaces_are_its_own(harbour: Any) -> None:
    output = harbour.sh("for n in pid mnt uts ipc net cgroup user; do readlink /proc/self/ns/$n; done").output
    ours = [os.readlink(f"/proc/self/ns/{n}") for n in ("pid", "mnt", "uts", "ipc", "net", "cgroup", "user")]
    theirs = output.split()
    assert [a == b for a, b in zip(ours, theirs, strict=True)] == [False] * 6 + [True]


def test_only_its_own_processes_are_seen_and_its_host_name(harbour: Any) -> None:
    output = harbour.sh("echo $$; hostname; ls -d /proc/[0-9]*").output
    assert output.split()[:2] == ["1", "box"]
    assert len(output.split()[2:]) <= 2


def test_devices_are_those_of_the_specification(harbour: Any) -> None:
    output = harbour.sh(
        "ls /dev; stat -c '%n %t:%T %a' /dev/null /dev/tty /dev/full; readlink /dev/ptmx; readlink /dev/fd"
    ).output
    assert output.split("\n")[:-1] == [
        *[
            *(["core"] if Path("/proc/kcore").exists() else []),
            "fd",
            "full",
            "mqueue",
            "null",
            "ptmx",
            "pts",
            "random",
            "shm",
            "stderr",
            "stdin",
            "stdout",
            "tty",
            "urandom",
            "zero",
        ],
        "/dev/null 1:3 666",
        "/dev/tty 5:0 666",
        "/dev/full 1:7 666",
        "pts/ptmx",
        "/proc/self/fd",
    ]


def test_mounts_have_their_options(harbour: Any) -> None:
    table = mount_table(harbour.sh("cat /proc/self/mountinfo").output)
    assert table["/"][1] == "overlay"
    assert table["/proc"] == ("rw,nosuid,nodev,noexec,relatime", "proc")
    assert table["/sys"] == ("ro,nosuid,nodev,noexec,relatime", "sysfs")
    assert table["/dev"] == ("rw,nosuid", "tmpfs")
    assert table["/dev/shm"] == ("rw,nosuid,nodev,noexec,relatime", "tmpfs")
    assert table["/proc/sys"] == ("ro,nosuid,nodev,noexec,relatime", "proc")
    assert table["/proc/acpi"] == ("ro,relatime", "tmpfs")
    assert table["/proc/keys"][1] == "tmpfs"


def test_nothing_of_the_host_is_mounted_in_it(harbour: Any) -> None:
    table = mount_table(harbour.sh("cat /proc/self/mountinfo").output)
    allowed = ("/proc", "/dev", "/sys")
    assert [point for point in table if point != "/" and not point.startswith(allowed)] == []


def test_no_descriptor_of_the_host_is_left_open(harbour: Any) -> None:
    # The fourth is the directory that ls itself has open.
    assert harbour.sh("ls /proc/self/fd").output.split() == ["0", "1", "2", "3"]


def test_capabilities_are_dockers_and_nothing_is_inheritable(harbour: Any) -> None:
    output = harbour.sh("grep Cap /proc/self/status || cat /proc/self/status").output
    found = dict(re.findall(r"(Cap\w+):\s+(\w+)", output))
    assert found == {
        "CapInh": "0000000000000000",
        "CapPrm": "00000000a80425fb",
        "CapEff": "00000000a80425fb",
        "CapBnd": "00000000a80425fb",
        "CapAmb": "0000000000000000",
    }


def test_another_user_has_no_capabilities_but_ambient_ones(harbour: Any) -> None:
    net = ("CAP_NET_BIND_SERVICE",)
    capabilities = oci.Capabilities(bounding=net, effective=net, permitted=net, inheritable=net, ambient=net)
    process = {"capabilities": capabilities, "user": oci.User(1000, 1000)}
    output = harbour.run(harbour.spec("cat", "/proc/self/status", process=process)).output
    assert dict(re.findall(r"(Cap\w+):\s+(\w+)", output)) == dict.fromkeys(
        ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), "0000000000000400"
    )
    plain = harbour.run(
        harbour.spec("cat", "/proc/self/status", process={"user": oci.User(1000, 1000)})
    ).output
    assert dict(re.findall(r"(CapEff|CapPrm):\s+(\w+)", plain)) == dict.fromkeys(
        ("CapEff", "CapPrm"), "0000000000000000"
    )


def test_no_new_privileges_and_umask_are_set(harbour: Any) -> None:
    process = {"no_new_privileges": True, "user": oci.User(umask=0o077)}
    output = harbour.run(harbour.spec("cat", "/proc/self/status", process=process)).output
    assert re.search(r"NoNewPrivs:\s+1", output)
    assert re.search(r"Umask:\s+0077", output)


def test_signals_are_as_a_fresh_program_expects_them(harbour: Any) -> None:
    output = harbour.run(harbour.spec("cat", "/proc/self/status")).output
    assert dict(re.findall(r"(SigIgn|SigBlk):\s+(\w+)", output)) == dict.fromkeys(
        ("SigIgn", "SigBlk"), "0000000000000000"
    )


def test_signals_that_the_launchers_caller_ignored_do_not_reach_a_container(tmp_path: Path) -> None:
    """posix_spawn(3), which make uses, leaves glibc's own signals 32 and 33 ignored."""
    show = "import sys; from sampan.linux.libc import stop_ignoring; [stop_ignoring(n) for n in (32, 33)];"
    show += "print([line for line in open('/proc/self/status') if line.startswith('SigIgn')][0].split()[1])"
    out = tmp_path / "out"
    actions = [(os.POSIX_SPAWN_OPEN, 1, str(out), os.O_WRONLY | os.O_CREAT, 0o600)]
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", show], os.environ, file_actions=actions)
    assert os.waitpid(pid, 0)[1] == 0
    assert int(out.read_text(), 16) >> 31 == 0


@pytest.mark.parametrize("no_new_privileges", [False, True])
def test_the_seccomp_filter_refuses_with_the_given_error(harbour: Any, no_new_privileges: bool) -> None:
    profile = oci.Seccomp(
        "SCMP_ACT_ALLOW",
        architectures=("SCMP_ARCH_X86_64",),
        syscalls=(oci.SeccompRule(("mkdir", "mkdirat"), "SCMP_ACT_ERRNO", 28),),
    )
    made = harbour.spec(
        "sh",
        "-c",
        "cat /proc/self/status; mkdir /tmp/x 2>&1",
        linux={"seccomp": profile},
        process={"no_new_privileges": no_new_privileges, "user": oci.User(1000, 1000)},
    )
    output = harbour.run(made).output
    assert re.search(r"Seccomp:\s+2", output)
    assert "No space left on device" in output


def test_a_user_is_looked_up_in_the_image(harbour: Any) -> None:
    outcome = harbour.sh("id; echo $HOME", user="bob")
    assert (
        outcome.output == "uid=1000(bob) gid=1001(staff) groups=10(wheel),29(audio),1001(staff)\n/home/bob\n"
    )


def test_an_unknown_user_is_told_in_dockers_words(harbour: Any) -> None:
    with pytest.raises(Invalid, match="unable to find user nobody9: no matching entries in passwd file"):
        harbour.create(harbour.spec("true"), user="nobody9")


def test_limits_of_resources_are_set(harbour: Any) -> None:
    process = {"rlimits": (oci.Rlimit("RLIMIT_NOFILE", 512, 256), oci.Rlimit("RLIMIT_CORE", 0, 0))}
    output = harbour.run(harbour.spec("sh", "-c", "ulimit -n; ulimit -Hn; ulimit -c", process=process)).output
    assert output.split() == ["256", "512", "0"]


def test_limits_too_small_for_the_runtime_hold_for_the_program_alone(harbour: Any) -> None:
    limits = (oci.Rlimit("RLIMIT_STACK", 40000, 32768), oci.Rlimit("RLIMIT_NOFILE", 4, 4))
    for reaping in (False, True):
        marks = {INIT_ANNOTATION: "true"} if reaping else {}
        spec = harbour.spec("cat", "/proc/self/limits", process={"rlimits": limits}, annotations=marks)
        lines = harbour.run(spec).output.splitlines()
        found = {line[:26].strip(): line[26:].split()[:2] for line in lines}
        assert found["Max stack size"] == ["32768", "40000"]
        assert found["Max open files"] == ["4", "4"]


def test_a_limit_that_can_not_be_had_is_a_clear_error(harbour: Any) -> None:
    process = {"rlimits": (oci.Rlimit("RLIMIT_NOFILE", 1 << 30, 1 << 30),)}
    with pytest.raises(
        Denied, match=r"error setting rlimit RLIMIT_NOFILE .*operation not permitted"
    ) as caught:
        harbour.create(harbour.spec("true", process=process))
    assert "CAP_SYS_RESOURCE" in caught.value.hint


def test_the_oom_score_is_adjusted(harbour: Any) -> None:
    output = harbour.run(
        harbour.spec("cat", "/proc/self/oom_score_adj", process={"oom_score_adj": 321})
    ).output
    assert output == "321\n"


def test_a_sysctl_of_its_own_namespaces_is_set_and_others_are_refused(harbour: Any) -> None:
    sysctl = {"net.ipv4.ip_unprivileged_port_start": "77", "kernel.msgmax": "9000"}
    script = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/msgmax"
    assert harbour.run(harbour.spec("sh", "-c", script, linux={"sysctl": sysctl})).output.split() == [
        "77",
        "9000",
    ]
    with pytest.raises(Invalid, match="not in a separate kernel namespace"):
        harbour.create(harbour.spec("true", linux={"sysctl": {"kernel.panic": "1"}}))


def test_a_read_only_root_takes_no_writing(harbour: Any) -> None:
    made = harbour.spec(
        "sh", "-c", "touch /x 2>&1; touch /dev/shm/y && echo shm", root=oci.Root("rootfs", readonly=True)
    )
    assert harbour.run(made).output == "touch: /x: Read-only file system\nshm\n"


def test_bind_mounts_make_their_targets_and_honour_their_options(harbour: Any, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "hosts").write_text("127.0.0.1 localhost\n")
    mounts = (
        *harbour.spec("x").mounts,
        oci.Mount("/srv/data", "bind", str(tmp_path / "data"), ("rbind", "rprivate", "ro", "noexec")),
        oci.Mount("/srv/rw", "bind", str(tmp_path / "data"), ("bind",)),
        oci.Mount("/etc/hosts", "bind", str(tmp_path / "hosts"), ("rbind",)),
        oci.Mount("/scratch", "tmpfs", "tmpfs", ("size=1m", "mode=1770", "nosuid")),
    )
    script = "cat /etc/hosts; touch /srv/data/a 2>&1; touch /srv/rw/b; stat -c %a /scratch; cat /proc/self/mountinfo"
    output = harbour.run(harbour.spec("sh", "-c", script, mounts=mounts)).output
    assert output.startswith("127.0.0.1 localhost\ntouch: /srv/data/a: Read-only file system\n1770\n")
    table = mount_table(output)
    assert table["/srv/data"][0] == "ro,noexec,relatime"
    assert table["/srv/rw"][0] == "rw,relatime"
    assert (tmp_path / "data/b").exists()


def test_a_missing_bind_source_is_named(harbour: Any) -> None:
    mounts = (*harbour.spec("x").mounts, oci.Mount("/data", "bind", "/no/such/place", ("rbind",)))
    with pytest.raises(NotFound, match="/no/such/place: no such file or directory"):
        harbour.create(harbour.spec("true", mounts=mounts))


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("/proc", "'/proc' cannot be mounted because it is not of type proc"),
        ("/proc/sys/kernel", "'/proc/sys/kernel' cannot be mounted because it is inside /proc"),
        ("/data/../proc/self", "'/proc/self' cannot be mounted because it is inside /proc"),
        ("/alias/sys", "'/alias/sys' cannot be mounted because it is inside /proc"),
    ],
)
def test_procfs_can_not_be_replaced_by_a_bind_mount(
    harbour: Any, tmp_path: Path, target: str, text: str
) -> None:
    root = harbour.assembly(f"alias-{tmp_path.name}")
    (Path(root.upper) / "alias").symlink_to("/proc")
    mounts = (*harbour.spec("x").mounts, oci.Mount(target, "bind", str(tmp_path), ("rbind",)))
    with pytest.raises(Invalid, match=re.escape(text)):
        harbour.create(harbour.spec("true", mounts=mounts), root=root)


def test_the_hosts_procfs_can_be_bound_over_the_containers(harbour: Any) -> None:
    mounts = (*harbour.spec("x").mounts, oci.Mount("/proc", "bind", "/proc", ("rbind", "ro")))
    outcome = harbour.run(harbour.spec("cat", "/proc/1/comm", mounts=mounts))
    assert outcome.output == Path("/proc/1/comm").read_text()


def test_a_mount_target_behind_a_symbolic_link_stays_inside(harbour: Any, tmp_path: Path) -> None:
    root = harbour.assembly("links")
    outside = tmp_path / "outside"
    outside.mkdir()
    (Path(root.upper) / "escape").symlink_to(outside)
    (Path(root.upper) / "climb").symlink_to("../../../../../../../../.." + str(outside))
    mounts = (
        *harbour.spec("x").mounts,
        oci.Mount("/escape/here", "tmpfs", "tmpfs"),
        oci.Mount("/climb/there", "tmpfs", "tmpfs"),
    )
    output = harbour.run(harbour.spec("cat", "/proc/self/mountinfo", mounts=mounts), root=root).output
    assert list(outside.iterdir()) == []
    assert f"{outside}/here" in mount_table(output)
    assert f"{outside}/there" in mount_table(output)


def test_procfs_is_not_mounted_over_a_symbolic_link(harbour: Any) -> None:
    root = harbour.assembly("proclink")
    (Path(root.upper) / "proc").symlink_to("/tmp")
    with pytest.raises(Invalid, match=r"filesystem .proc. must be mounted on ordinary directory"):
        harbour.create(harbour.spec("true"), root=root)


def test_masking_refuses_a_null_device_that_is_none(harbour: Any, tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/null").write_text("not a device")
    mounts = tuple(
        oci.Mount("/dev", "bind", str(tmp_path / "dev"), ("rbind",)) if mount.destination == "/dev" else mount
        for mount in harbour.spec("x").mounts
        if not mount.destination.startswith("/dev/")
    )
    with pytest.raises(Invalid, match="not the null device"):
        harbour.create(harbour.spec("true", mounts=mounts))


def test_a_working_directory_outside_of_the_root_is_refused(harbour: Any) -> None:
    """CVE-2024-21626: a descriptor that init has open, of a directory on the host."""
    for number in range(3, 12):
        made = harbour.spec("ls", "-a", "../../../../..", process={"cwd": f"/proc/self/fd/{number}"})
        with pytest.raises((ExecFailed, Denied), match=r"cwd|working directory"):
            harbour.create(made).shim.start()


def test_a_missing_working_directory_is_made(harbour: Any) -> None:
    assert harbour.run(harbour.spec("pwd", process={"cwd": "/made/for/it"})).output == "/made/for/it\n"


def test_a_file_as_working_directory_is_told(harbour: Any) -> None:
    with pytest.raises(ExecFailed, match=r"/etc/passwd.*not a directory") as caught:
        harbour.create(harbour.spec("pwd", process={"cwd": "/etc/passwd"}))
    assert caught.value.exit_code == 127


def test_groups_are_joined_by_name_and_number(harbour: Any) -> None:
    outcome = harbour.sh("id -G", user="bob", groups=("audio", "4242", "root"))
    assert sorted(outcome.output.split(), key=int) == ["0", "10", "29", "1001", "4242"]
    with pytest.raises(Invalid, match="unable to find group nosuch"):
        harbour.create(harbour.spec("true"), groups=("nosuch",))


def test_an_entry_point_can_not_overwrite_the_interpreter(harbour: Any) -> None:
    """CVE-2019-5736: the entry point is executed by /proc/self/exe, which would be the runtime's own program."""
    interpreter = Path(os.path.realpath("/proc/self/exe"))
    before = hashlib.sha256(interpreter.read_bytes()).hexdigest()
    root = harbour.assembly("overwrite")
    script = Path(root.upper) / "entry"
    script.write_text("#!/proc/self/exe\n")
    script.chmod(0o755)
    box = harbour.create(harbour.spec("/entry"), root=root)
    try:
        box.shim.start()
    except ExecFailed:
        pass
    box.shim.wait()
    # While init waits before its execve it is the interpreter: even root on the host can't write to what runs.
    waiting = harbour.create(harbour.spec("true"))
    with pytest.raises(OSError, match=r"busy|not permitted|read-only|denied"):
        os.close(os.open(f"/proc/{waiting.created.init_pid}/exe", os.O_WRONLY))
    assert os.readlink(f"/proc/{waiting.created.init_pid}/exe").startswith("/memfd:")
    waiting.shim.kill(9)
    assert hashlib.sha256(interpreter.read_bytes()).hexdigest() == before


def test_many_layers_can_be_stacked(harbour: Any, tmp_path: Path) -> None:
    layers = [LayerMount("dir", str(harbour.layer))]
    for number in range(126):
        layer = tmp_path / f"l{number}"
        layer.mkdir()
        (layer / f"file{number}").touch()
        layers.append(LayerMount("dir", str(layer)))
    output = harbour.sh("ls /file* | wc -l", root=harbour.assembly("many", tuple(layers))).output
    assert output.strip() == "126"


def test_the_topmost_layer_wins(harbour: Any, tmp_path: Path) -> None:
    layers = [LayerMount("dir", str(harbour.layer))]
    for text in ("lower", "upper"):
        (tmp_path / text).mkdir()
        (tmp_path / text / "which").write_text(text)
        layers.append(LayerMount("dir", str(tmp_path / text)))
    assert harbour.sh("cat /which", root=harbour.assembly("order", tuple(layers))).output == "upper"


def test_a_root_can_be_looked_into_and_written_to_from_outside(harbour: Any) -> None:
    root = harbour.assembly("looked")
    descriptor = harbour.client.open_root(root)
    try:
        assert "busybox" in os.listdir(f"/proc/self/fd/{descriptor}/bin")
        Path(f"/proc/self/fd/{descriptor}/from-outside").write_text("x")
    finally:
        os.close(descriptor)
    assert (Path(root.upper) / "from-outside").read_text() == "x"


def test_no_device_of_an_opened_root_can_be_opened(harbour: Any, tmp_path: Path) -> None:
    """An image may have one where the engine looks for a file; for some, to be opened is enough (a watchdog's)."""
    layer = tmp_path / "devices"
    layer.mkdir()
    os.mknod(layer / "passwd", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    layers = (LayerMount("dir", str(harbour.layer)), LayerMount("dir", str(layer)))
    for root in (RootAssembly(layers), harbour.assembly("devices", layers)):
        descriptor = harbour.client.open_root(root)
        try:
            with pytest.raises(PermissionError):
                os.open("passwd", os.O_RDONLY | os.O_NONBLOCK, dir_fd=descriptor)
        finally:
            os.close(descriptor)
    assert (
        harbour.sh("echo x > /passwd && echo written", root=harbour.assembly("d2", layers)).output
        == "written\n"
    )


def test_an_opened_root_without_a_writable_layer_is_read_only(harbour: Any) -> None:
    for layers in ((), (LayerMount("dir", str(harbour.layer)),)):
        descriptor = harbour.client.open_root(RootAssembly(layers))
        try:
            with pytest.raises(OSError, match="Read-only"):
                os.mkdir("x", dir_fd=descriptor)
        finally:
            os.close(descriptor)


def test_a_missing_layer_is_named(harbour: Any) -> None:
    for kind in ("dir", "erofs"):
        with pytest.raises(NotFound, match="layer /no/such is missing"):
            harbour.client.open_root(RootAssembly((LayerMount(kind, "/no/such"),)))


def test_the_hosts_mount_table_stays_clean(harbour: Any) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    box = harbour.create(harbour.spec("sleep", "100"))
    box.shim.start()
    assert Path("/proc/self/mountinfo").read_text() == before


def test_a_reaping_init_is_process_one_and_passes_signals_on(harbour: Any) -> None:
    script = "trap 'exit 7' TERM; echo $$ ready; while :; do sleep 0.05; done"
    box = harbour.create(harbour.spec("sh", "-c", script, annotations={INIT_ANNOTATION: "true"}))
    output = box.attach(framed=False)
    box.shim.start()
    assert output.recv(100) == b"2 ready\n"
    status = Path(f"/proc/{box.created.init_pid}/status").read_text()
    assert dict(re.findall(r"(Cap\w+):\s+(\w+)", status))["CapEff"] == "00000000a80425fb"
    box.shim.kill(15)
    assert box.shim.wait().exit_code == 7
    output.close()


def test_orphans_are_reaped_by_the_init_that_was_asked_for(harbour: Any) -> None:
    # The orphan ends before the second program of the pipe has read its end of file.
    script = "(true | true & ); sleep 0.2; cat /proc/[0-9]*/status"
    output = harbour.run(harbour.spec("sh", "-c", script, annotations={INIT_ANNOTATION: "true"})).output
    assert re.findall(r"Name:\s+(\S+)", output) == ["sampan-init", "cat"]


def test_the_init_shows_the_container_nothing_of_the_host(harbour: Any) -> None:
    """Its memory and environment were the launcher's: they are out of reach, and its arguments are its own."""
    script = "cat /proc/1/cmdline; for n in environ mem maps fd/0; do head -c1 /proc/1/$n && echo leaked $n; done 2>&1"
    output = harbour.run(harbour.spec("sh", "-c", script, annotations={INIT_ANNOTATION: "true"})).output
    assert output.startswith("/sbin/sampan-init\0")
    assert "launcher" not in output
    assert "leaked" not in output
    assert output.count("Permission denied") == 4


def test_control_group_limits_hold_and_the_oom_killer_is_told(harbour: Any, group_path: str) -> None:
    resources = oci.Resources(
        memory=oci.MemoryLimits(limit=8 << 20, swap=8 << 20),
        pids=oci.PidsLimits(20),
        devices=(oci.DeviceRule(False, access="rwm"),),
    )
    linux = {"cgroups_path": group_path, "resources": resources}
    outcome = harbour.run(
        harbour.spec("dd", "if=/dev/zero", "of=/dev/shm/big", "bs=1M", "count=60", linux=linux)
    )
    assert outcome.record.exit_code == 137
    assert outcome.record.oom_killed


def test_the_control_group_is_gone_with_the_container(harbour: Any, group_path: str) -> None:
    box = harbour.create(harbour.spec("sleep", "100", linux={"cgroups_path": group_path}))
    assert box.created.init_pid in detect().group(group_path).pids()
    box.shim.start()
    box.shim.kill(9)
    box.shim.wait()
    assert not detect().group(group_path).exists()


def test_a_new_user_namespace_maps_root(harbour: Any) -> None:
    kinds = ("pid", "mount", "uts", "ipc", "network", "user")
    mapping = (oci.IdMapping(0, 100000, 65536),)
    linux = {
        "namespaces": tuple(oci.Namespace(kind) for kind in kinds),
        "uid_mappings": mapping,
        "gid_mappings": mapping,
        "masked_paths": (),
        "readonly_paths": (),
    }
    mounts = tuple(mount for mount in harbour.spec("x").mounts if mount.type != "cgroup")
    root = harbour.assembly("mapped")
    os.chown(root.upper, 100000, 100000)
    made = harbour.spec("sh", "-c", "id -u; cat /proc/self/uid_map", linux=linux, mounts=mounts)
    output = harbour.run(made, root=root).output
    assert output.split() == ["0", "0", "100000", "65536"]
