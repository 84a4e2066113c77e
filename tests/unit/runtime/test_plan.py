from __future__ import annotations

from typing import Any, TypeVar

import msgspec
import pytest

from sampan.errors import Invalid
from sampan.linux import mount as m
from sampan.linux import namespaces as ns
from sampan.oci import spec as oci
from sampan.runtime import steps as s
from sampan.runtime.defaultspec import default_spec
from sampan.runtime.options import parse_options
from sampan.runtime.plan import outside, plan_container, plan_exec

KINDS = ("pid", "network", "ipc", "uts", "mount", "cgroup")


def make(**linux: Any) -> oci.Spec:
    parts: dict[str, Any] = {"namespaces": tuple(oci.Namespace(kind) for kind in KINDS), **linux}
    return oci.Spec(
        "1.0.2",
        process=oci.Process("/", args=("true",)),
        root=oci.Root("rootfs"),
        linux=oci.Linux(**parts),
    )


T = TypeVar("T")


def of_kind(plan: tuple[s.Step, ...], kind: type[T]) -> list[T]:
    return [step for step in plan if isinstance(step, kind)]


def test_a_plan_is_in_the_order_of_the_life_cycle() -> None:
    order = [type(step).__name__ for step in plan_container(default_spec(), "x")]
    wanted = [
        "NewNamespaces",
        "SetMountPropagation",
        "AttachRoot",
        "MountFilesystem",
        "MakeDevice",
        "MakeLink",
        "OpenConsole",
        "BindConsole",
        "Pivot",
        "SetHostname",
        "ReadonlyPath",
        "MaskPath",
        "ReadonlyRoot",
        "SetRlimit",
        "JoinKeyring",
    ]
    assert [order.index(name) for name in wanted] == sorted(order.index(name) for name in wanted)


def test_every_step_describes_itself_in_words() -> None:
    lines = [step.describe() for step in plan_container(default_spec(), "x")]
    assert {
        "new namespaces",
        "mount filesystem /proc",
        "mask path /proc/kcore",
        "set hostname sampan",
    } <= set(lines)


def test_pid_and_user_namespaces_are_the_makers() -> None:
    kinds = (*KINDS, "user")
    mapping = (oci.IdMapping(0, 1000, 1),)
    spec = make(
        namespaces=tuple(oci.Namespace(kind) for kind in kinds), uid_mappings=mapping, gid_mappings=mapping
    )
    (step,) = of_kind(plan_container(spec, "x"), s.NewNamespaces)
    assert step.flags == ns.NEWNS | ns.NEWUTS | ns.NEWIPC | ns.NEWNET | ns.NEWCGROUP


def test_namespaces_with_a_path_are_joined_and_those_left_out_are_the_hosts() -> None:
    spec = make(namespaces=(oci.Namespace("mount"), oci.Namespace("network", "/proc/7/fd/3")))
    plan = plan_container(spec, "x")
    assert of_kind(plan, s.JoinNamespaces) == [s.JoinNamespaces(((ns.NEWNET, "/proc/7/fd/3"),))]
    assert of_kind(plan, s.NewNamespaces) == [s.NewNamespaces(ns.NEWNS)]
    assert of_kind(plan, s.LoopbackUp) == []


def test_an_existing_pid_namespace_is_entered_after_the_pivot_and_procfs_mounted_then() -> None:
    kinds = (oci.Namespace("mount"), oci.Namespace("pid", "/proc/7/ns/pid"))
    below = oci.Mount("/proc/uptime", "bind", "/file", ("bind",))
    spec = make(namespaces=kinds, masked_paths=("/proc/kcore",))
    spec = msgspec.structs.replace(spec, mounts=(*default_spec().mounts, below))
    plan = plan_container(spec, "x")
    order = [type(step).__name__ for step in plan]
    targets = [getattr(step, "target", "") for step in plan]
    entered = order.index("EnterPidNamespace")
    assert order.index("Pivot") < entered < targets.index("/proc") < targets.index("/proc/uptime")
    assert targets.index("/dev") < entered < order.index("MaskPath")
    (taken,) = of_kind(plan, s.TakeTrees)
    assert [tree.source for tree in taken.trees] == ["/file"]
    # Hooks are told a number, which has to be the final process's.
    hooked = msgspec.structs.replace(spec, hooks=oci.Hooks(prestart=(oci.Hook("/bin/true"),)))
    assert not of_kind(plan_container(hooked, "x"), s.EnterPidNamespace)


def test_a_given_network_replaces_the_specifications() -> None:
    plan = plan_container(make(), "x", network_given=True)
    assert not of_kind(plan, s.NewNamespaces)[0].flags & ns.NEWNET
    assert of_kind(plan, s.LoopbackUp) == []


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (make(namespaces=(oci.Namespace("pid"),)), "mount namespace"),
        (make(namespaces=(oci.Namespace("mount"), oci.Namespace("mount"))), "duplicated ns 'mount'"),
        (make(namespaces=(oci.Namespace("mount"), oci.Namespace("zone"))), "unknown namespace type 'zone'"),
        (make(uid_mappings=(oci.IdMapping(0, 0, 1),)), "user namespace isn't enabled"),
        (make(masked_paths=("proc/kcore",)), "must be absolute"),
        (make(sysctl={"kernel.panic": "1"}), "not in a separate kernel namespace"),
        (make(sysctl={"net..x": "1"}), "not a valid name"),
        (make(sysctl={"net/../kernel/panic": "1"}), "not a valid name"),
        (make(devices=(oci.Device("/dev/x", "q", 1, 1),)), "unknown type 'q'"),
        (make(devices=(oci.Device("/dev/x", "c"),)), "major and minor"),
        (make(rootfs_propagation="sideways"), "rootfsPropagation=sideways is not supported"),
        (msgspec.structs.replace(make(), process=oci.Process("/")), "args must not be empty"),
        (msgspec.structs.replace(make(), process=oci.Process("etc", args=("x",))), "absolute"),
        (msgspec.structs.replace(make(), process=oci.Process("/", args=("a\0b",))), "NUL"),
    ],
)
def test_a_specification_that_can_not_be_is_refused_with_the_reason(spec: oci.Spec, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        plan_container(spec, "x")


def test_a_sysctl_needs_the_namespace_that_it_belongs_to() -> None:
    spec = make(namespaces=(oci.Namespace("mount"),), sysctl={"net.core.somaxconn": "5"})
    with pytest.raises(Invalid, match="hosts net namespace"):
        plan_container(spec, "x")


def test_a_hostname_needs_a_uts_namespace() -> None:
    spec = msgspec.structs.replace(make(namespaces=(oci.Namespace("mount"),)), hostname="x")
    with pytest.raises(Invalid, match="without a private UTS namespace"):
        plan_container(spec, "x")


@pytest.mark.parametrize(
    ("destination", "target"), [("/a/../b/", "/b"), ("data", "/data"), ("//dev", "/dev"), ("/../../x", "/x")]
)
def test_mount_destinations_are_made_absolute_and_plain(destination: str, target: str) -> None:
    spec = msgspec.structs.replace(make(), mounts=(oci.Mount(destination, "bind", "/s", ("bind",)),))
    assert [step.target for step in of_kind(plan_container(spec, "x"), s.BindMount)] == [target]


def test_bind_options_become_what_is_set_and_what_is_cleared() -> None:
    options = ("rbind", "rshared", "ro", "nosuid", "exec", "rnodev")
    spec = msgspec.structs.replace(make(), mounts=(oci.Mount("/d", "bind", "/s", options),))
    (step,) = of_kind(plan_container(spec, "x"), s.BindMount)
    assert (step.recursive, step.tree) == (True, 0)
    assert plan_container(spec, "x")[0] == s.TakeTrees((s.Tree("/s", recursive=True, from_host=True),))
    assert step.add == m.ATTR_RDONLY | m.ATTR_NOSUID
    assert step.clear == m.ATTR_NOEXEC
    assert step.add_below == m.ATTR_NODEV
    assert step.propagation == (s.Propagation(m.MS_SHARED, True),)


def test_a_bind_mounted_dev_is_left_as_it_is() -> None:
    spec = msgspec.structs.replace(make(), mounts=(oci.Mount("//dev/", "bind", "/dev", ("rbind",)),))
    assert of_kind(plan_container(spec, "x"), s.MakeDevice) == []


def test_file_system_options_keep_their_order_and_read_only_is_both() -> None:
    mount = oci.Mount("/t", "tmpfs", "tmpfs", ("nosuid", "size=1m", "ro", "mode=755"))
    (step,) = of_kind(
        plan_container(msgspec.structs.replace(make(), mounts=(mount,)), "x"), s.MountFilesystem
    )
    assert step.options == (("ro", None), ("size", "1m"), ("mode", "755"))
    assert step.attributes == m.ATTR_NOSUID | m.ATTR_RDONLY


def test_the_last_of_contradicting_options_wins() -> None:
    assert parse_options(("ro", "rw")).attributes == 0
    assert parse_options(("rw", "ro")).attributes == m.ATTR_RDONLY
    assert parse_options(("noatime", "strictatime")).attributes == m.ATTR_STRICTATIME


def test_relatime_is_an_option_of_its_own_and_not_recursive_elatime() -> None:
    assert parse_options(("relatime",)) == msgspec.structs.replace(parse_options(()), clear=m.ATTR_ATIME)


IDS = (oci.IdMapping(0, 100000, 65536),)
USER = {
    "namespaces": tuple(oci.Namespace(kind) for kind in (*KINDS, "user")),
    "uid_mappings": IDS,
    "gid_mappings": IDS,
}


def test_mounts_with_mapped_ids_are_taken_before_the_user_namespace_is_entered() -> None:
    mounts = (
        oci.Mount("/plain", "bind", "/a", ("rbind",)),
        oci.Mount("/tmp", "tmpfs", "tmpfs"),
        oci.Mount("/mapped", "bind", "/b", ("rbind", "ridmap")),
        oci.Mount("/own", "bind", "/c", ("bind",), IDS, IDS),
    )
    before, rest = outside(plan_container(msgspec.structs.replace(make(**USER), mounts=mounts), "x"))
    (taken,) = of_kind(before, s.TakeTrees)
    assert taken.trees == (
        s.Tree("/a", recursive=True),
        s.Tree("/b", recursive=True, idmap="tree"),
        s.Tree("/c", idmap="mount", uid_mappings=IDS, gid_mappings=IDS),
    )
    assert [(step.target, step.tree) for step in of_kind(rest, s.BindMount)] == [
        ("/plain", 0), ("/mapped", 1), ("/own", 2),
    ]  # fmt: skip
    assert not of_kind(rest, s.TakeTrees)


def test_limits_that_take_the_hosts_privileges_are_set_before_the_user_namespace_is_entered() -> None:
    process = oci.Process(
        "/", args=("x",), rlimits=(oci.Rlimit("RLIMIT_CORE", 5, 5),), oom_score_adj=-5, apparmor_profile="p"
    )
    before, rest = outside(plan_exec(process, "x"))
    assert [type(step) for step in before] == [s.SetOomScoreAdjustment, s.SetRlimit]
    assert [type(step) for step in rest] == [s.SetApparmorProfile, s.JoinKeyring]


def test_a_mount_of_another_process_is_taken_from_its_root() -> None:
    mount = oci.Mount("/dev/shm", "bind", "/proc/42/root/dev/shm", ("bind",))
    plan = plan_container(msgspec.structs.replace(make(), mounts=(mount,)), "x")
    assert plan[0] == s.TakeTrees((s.Tree("/dev/shm", of_process=42),))


@pytest.mark.parametrize(
    ("mount", "words"),
    [
        (oci.Mount("/d", "bind", "/s", ("bind", "idmap")), "without mappings"),
        (oci.Mount("/d", "bind", "/s", ("bind",), IDS, ()), "both uidMappings and gidMappings"),
        (oci.Mount("/d", "tmpfs", "tmpfs", (), IDS, IDS), "only bind mounts"),
    ],
)
def test_mapped_ids_that_cannot_be_had_are_refused(mount: oci.Mount, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        plan_container(msgspec.structs.replace(make(), mounts=(mount,)), "x")


def test_selinux_labels_go_to_the_process_and_to_what_is_mounted_new() -> None:
    label = "system_u:object_r:container_file_t:s0:c1,c2"
    mounts = tuple(
        oci.Mount(f"/{kind}", kind, kind) for kind in ("proc", "tmpfs", "devpts", "mqueue", "sysfs")
    )
    process = oci.Process("/", args=("true",), selinux_label="a:b:c:s0")
    spec = msgspec.structs.replace(make(mount_label=label), mounts=mounts, process=process)
    plan = plan_container(spec, "x")
    labelled = {
        step.kind: (("context", label) in step.options, step.label)
        for step in of_kind(plan, s.MountFilesystem)
    }
    assert labelled == {
        "proc": (False, ""), "sysfs": (False, ""), "tmpfs": (True, ""), "devpts": (True, ""), "mqueue": (False, label),
    }  # fmt: skip
    assert of_kind(plan, s.SetSelinuxLabel) == [s.SetSelinuxLabel("a:b:c:s0")]
    assert plan.index(s.SetSelinuxLabel("a:b:c:s0")) < plan.index(s.JoinKeyring("_ses.x"))


def test_an_unlimited_resource_is_minus_one() -> None:
    process = oci.Process("/", args=("x",), rlimits=(oci.Rlimit("RLIMIT_CORE", (1 << 64) - 1, 5),))
    assert of_kind(plan_exec(process, "x"), s.SetRlimit) == [s.SetRlimit("RLIMIT_CORE", 5, -1)]
