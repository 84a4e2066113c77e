"""The plan: a container's specification in, the ordered steps of making it out. Pure; nothing is looked up.

The order is that of the runtime-spec's life cycle (runtime.md) and of config.md's mounts: namespaces, the root
file system and what is mounted in it, hooks, pivot_root, and then what can only be done inside.
"""

from __future__ import annotations

import posixpath
import re

from msgspec.structs import replace

from sampan.errors import Invalid
from sampan.linux import mount as m
from sampan.linux import namespaces as ns
from sampan.oci.spec import Hooks, IoPriority, Linux, Mount, Personality, Process, Spec
from sampan.runtime import steps as s
from sampan.runtime.options import (
    GIVEN_OPTION,
    HOST_OPTION,
    WITHIN_OPTION,
    old_data,
    old_flags,
    parse_options,
    root_propagation,
    superblock_options,
)

NAMESPACE_FLAGS = {
    "user": ns.NEWUSER,
    "cgroup": ns.NEWCGROUP,
    "ipc": ns.NEWIPC,
    "uts": ns.NEWUTS,
    "network": ns.NEWNET,
    "pid": ns.NEWPID,
    "mount": ns.NEWNS,
    "time": ns.NEWTIME,
}
_MAKERS = ns.NEWPID | ns.NEWUSER | ns.NEWTIME

# config-linux.md, "Default Devices": path, major, minor.
_DEFAULT_DEVICES = (
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
)
_DEFAULT_LINKS = (
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/ptmx", "pts/ptmx"),
)
_DEVICE_KINDS = {"c": "c", "u": "c", "b": "b", "p": "p"}

_IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
_PERSONALITIES = {"LINUX": 0, "LINUX32": 8}  # PER_LINUX and PER_LINUX32 of linux/personality.h

_IPC_SYSCTLS = frozenset(
    {
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    }
)

Namespaces = dict[int, str | None]
"""CLONE_NEW* flag to the path of an existing namespace, or None for a new one; what is absent is the host's."""


def namespaces_of(spec: Spec) -> Namespaces:
    """Raises `Invalid` for an unknown or doubled kind."""
    result: Namespaces = {}
    for namespace in spec.linux.namespaces if spec.linux else ():
        flag = NAMESPACE_FLAGS.get(namespace.type)
        if flag is None:
            raise Invalid(f"unknown namespace type {namespace.type!r}")
        if flag in result:
            raise Invalid(f"malformed spec file: duplicated ns {namespace.type!r}")
        result[flag] = namespace.path or None
    return result


def enters_pid_late(spec: Spec) -> bool:
    """Whether an existing pid namespace is entered only when the host's files are out of sight.

    Its processes could get to them through /proc/<pid>/root if they have CAP_SYS_PTRACE. (In a user namespace of its
    own the process is out of their reach.) Whom hooks or an agent are told of by its number must be the final process.
    """
    namespaces = namespaces_of(spec)
    hooks, linux = spec.hooks or Hooks(), spec.linux or Linux()
    told = hooks.prestart or hooks.create_runtime or hooks.create_container or hooks.start_container
    if told or (linux.seccomp is not None and linux.seccomp.listener_path):
        return False
    return bool(namespaces.get(ns.NEWPID)) and ns.NEWUSER not in namespaces


def plan_container(spec: Spec, container_id: str, *, network_given: bool = False) -> tuple[s.Step, ...]:
    """The steps that the container's init performs, in order.

    `network_given`: the network namespace is joined by a descriptor, beside the plan. Raises `Invalid`.
    """
    validate(spec)
    process, linux, namespaces = spec.process or Process("/"), spec.linux or Linux(), namespaces_of(spec)
    late = enters_pid_late(spec)
    mounts, trees = _mount_steps(spec, namespaces, of_procfs=_procfs_targets(spec) if late else ())
    after = tuple(step for step in mounts if late and _is_below(_target(step), _procfs_targets(spec)))
    return (
        *((s.TakeTrees(trees),) if trees else ()),
        *_namespace_steps(namespaces, network_given),
        s.SetMountPropagation(_outer_propagation(linux)),
        s.AttachRoot(),
        *(step for step in mounts if step not in after),
        *_device_steps(spec, linux),
        *_console_steps(process),
        *((s.MakeWorkingDirectory(process.cwd),) if process.cwd != "/" else ()),
        *_hook_steps(spec),
        s.Pivot(),
        # A procfs shows the pid namespace of who mounts it.
        *((s.EnterPidNamespace(), *after) if late else ()),
        *_inside_steps(spec, linux, namespaces),
        *process_steps(process, container_id),
        # Last: what the machine is called changes with it, and with that the numbers of system calls looked up.
        *((_personality(linux.personality),) if linux.personality is not None else ()),
    )


def outside(steps: tuple[s.Step, ...]) -> tuple[tuple[s.Step, ...], tuple[s.Step, ...]]:
    """The steps to be done before a user namespace is entered, and the others: what is taken from the host, and what
    takes privileges there."""
    before = tuple(step for step in steps if isinstance(step, _OUTSIDE))
    return before, tuple(step for step in steps if not isinstance(step, _OUTSIDE))


_OUTSIDE = (s.TakeTrees, s.SetRlimit, s.SetOomScoreAdjustment)


def plan_exec(process: Process, container_id: str) -> tuple[s.Step, ...]:
    """The steps of a further process, after it has entered the container's namespaces."""
    size = process.console_size
    console = (
        (s.OpenConsole(size.height if size else 0, size.width if size else 0),) if process.terminal else ()
    )
    return (*console, *process_steps(process, container_id))


def process_steps(process: Process, container_id: str) -> tuple[s.Step, ...]:
    result: list[s.Step] = []
    if process.oom_score_adj is not None:
        result.append(s.SetOomScoreAdjustment(process.oom_score_adj))
    result += [s.SetRlimit(limit.type, *limit.values) for limit in process.rlimits]
    if process.io_priority is not None:
        result.append(_io_priority(process.io_priority))
    if process.apparmor_profile:
        result.append(s.SetApparmorProfile(process.apparmor_profile))
    if process.selinux_label:
        result.append(s.SetSelinuxLabel(process.selinux_label))
    result.append(s.JoinKeyring(f"_ses.{container_id}"))
    return tuple(result)


def validate(spec: Spec) -> None:
    """What config.md demands of a specification as a whole. Raises `Invalid`."""
    namespaces = namespaces_of(spec)
    linux = spec.linux or Linux()
    if spec.process is not None:
        validate_process(spec.process)
    if ns.NEWNS not in namespaces:
        raise Invalid('a container without a mount namespace is not possible: linux.namespaces lacks "mount"')
    if spec.hostname and ns.NEWUTS not in namespaces:
        raise Invalid("unable to set hostname without a private UTS namespace")
    if spec.domainname and ns.NEWUTS not in namespaces:
        raise Invalid("unable to set domainname without a private UTS namespace")
    if linux.time_offsets and ns.NEWTIME not in namespaces:
        raise Invalid("time namespace offsets specified, but time namespace isn't enabled in the config")
    if (linux.uid_mappings or linux.gid_mappings) and ns.NEWUSER not in namespaces:
        raise Invalid("user namespace mappings specified, but user namespace isn't enabled in the config")
    for path in (*linux.masked_paths, *linux.readonly_paths):
        if not path.startswith("/"):
            raise Invalid(f"masked and read-only paths must be absolute: {path!r}")
    for name in linux.sysctl or {}:
        _check_sysctl(name, namespaces)


def validate_process(process: Process) -> None:
    if not process.args:
        raise Invalid("args must not be empty")
    if not process.cwd:
        raise Invalid("Cwd property must not be empty")
    if not process.cwd.startswith("/"):
        raise Invalid(f"Cwd must be an absolute path: {process.cwd!r}")
    if any("\0" in text for text in (*process.args, *process.env, process.cwd)):
        raise Invalid("arguments, environment and working directory must not contain a NUL byte")


def _namespace_steps(namespaces: Namespaces, network_given: bool) -> tuple[s.Step, ...]:
    joined = tuple(
        (flag, path)
        for flag in ns.FILES
        if (path := namespaces.get(flag)) and not flag & _MAKERS and not (flag == ns.NEWNET and network_given)
    )
    new = sum(flag for flag, path in namespaces.items() if path is None) & ~_MAKERS
    if network_given:
        new &= ~ns.NEWNET
    loopback = (s.LoopbackUp(),) if new & ns.NEWNET else ()
    return (*((s.JoinNamespaces(joined),) if joined else ()), s.NewNamespaces(new), *loopback)


def _outer_propagation(linux: Linux) -> int:
    """Shared roots need mounts that are slaves of the host's at least; runc takes rslave as the default."""
    name = linux.rootfs_propagation
    return m.MS_PRIVATE if name in ("private", "rprivate") else m.MS_SLAVE


def _procfs_targets(spec: Spec) -> tuple[str, ...]:
    return tuple(_absolute(mount.destination) for mount in spec.mounts if mount.type == "proc")


def _is_below(path: str, places: tuple[str, ...]) -> bool:
    return any(path == place or path.startswith(f"{place.rstrip('/')}/") for place in places)


def _target(step: s.Step) -> str:
    return str(getattr(step, "target", ""))


def _mount_steps(
    spec: Spec, namespaces: Namespaces, of_procfs: tuple[str, ...]
) -> tuple[tuple[s.Step, ...], tuple[s.Tree, ...]]:
    """The mounts, and the trees that are taken for them beforehand: also those at and below `of_procfs`."""
    result: list[s.Step] = []
    trees: list[s.Tree] = []
    for mount in spec.mounts:
        step = _mount_step(mount, namespaces)
        if isinstance(step, s.MountFilesystem) and spec.linux is not None and spec.linux.mount_label:
            step = _labelled(step, spec.linux.mount_label)
        late = _is_below(_target(step), of_procfs)
        tree = _tree(mount, step, namespaces, late) if isinstance(step, s.BindMount) else None
        if tree is None and (mount.uid_mappings or mount.gid_mappings):
            raise Invalid(f"only bind mounts can be idmapped: {mount.destination}")
        if tree is not None and isinstance(step, s.BindMount):
            step = replace(step, tree=len(trees))
            trees.append(tree)
        result.append(step)
    return tuple(result), tuple(trees)


def _labelled(step: s.MountFilesystem, label: str) -> s.MountFilesystem:
    """With `linux.mountLabel` (config-linux.md): the whole of it by an option, where the file system takes it."""
    if step.kind in _WITHOUT_LABELS:
        return step
    if step.kind == "mqueue":
        return replace(step, label=label)
    return replace(step, options=(*step.options, ("context", label)))


_WITHOUT_LABELS = frozenset(("proc", "sysfs", "cgroup", "cgroup2"))
_OF_PROCESS = re.compile(r"/proc/([1-9][0-9]*)/root(/.*)?")


def _tree(mount: Mount, step: s.BindMount, namespaces: Namespaces, late: bool) -> s.Tree | None:
    """How the source is taken beforehand; None when that is not needed.

    Needed: when it is `late`, for mount events, from another mount namespace, with mapped ids, when the container's
    root is nobody on the host and could not reach the source, and when it came with the request.
    """
    shared = any(one.flag == m.MS_SHARED for one in step.propagation)
    process = _OF_PROCESS.fullmatch(step.source)
    mapped = bool(mount.uid_mappings or mount.gid_mappings)
    if mapped and not (mount.uid_mappings and mount.gid_mappings):
        raise Invalid(f"both uidMappings and gidMappings are needed: {mount.destination}")
    idmap = parse_options(mount.options).idmap or ("mount" if mapped else "")
    if idmap and not mapped and ns.NEWUSER not in namespaces:
        raise Invalid(f"without mappings only a container with a user namespace has any: {mount.destination}")
    given = dict(parse_options(mount.options).data).get(GIVEN_OPTION) or ""
    if given.isdecimal() and len(given) < 4:
        return s.Tree(
            step.source,
            idmap=idmap,
            uid_mappings=mount.uid_mappings,
            gid_mappings=mount.gid_mappings,
            given=int(given),
        )
    host = shared or HOST_OPTION in dict(parse_options(mount.options).data)
    if not (late or host or process or idmap or ns.NEWUSER in namespaces):
        return None
    source, number = (process[2] or "/", int(process[1])) if process else (step.source, 0)
    return s.Tree(
        source, step.recursive, host, number, idmap, mount.uid_mappings, mount.gid_mappings, step.within
    )


def _mount_step(mount: Mount, namespaces: Namespaces) -> s.Step:
    if not mount.destination:
        raise Invalid("a mount's destination must not be empty")
    # config.md: relative destinations are relative to "/", for the sake of old configurations.
    target = _absolute(mount.destination)
    options = parse_options(mount.options)
    if options.remount:
        return s.Remount(target, old_flags(options), old_data(options))
    if options.bind or mount.type == "bind":
        if not mount.source:
            raise Invalid(f"a bind mount needs a source: {mount.destination}")
        return s.BindMount(
            mount.source,
            target,
            options.recursive_bind,
            options.attributes,
            options.clear,
            options.attributes_below,
            options.clear_below,
            options.propagation,
            within=dict(options.data).get(WITHIN_OPTION) or "",
        )
    if not mount.type:
        raise Invalid(f"a mount needs a type or the option bind: {mount.destination}")
    if mount.type == "cgroup":
        return s.MountCgroups(target, options.attributes, ns.NEWCGROUP in namespaces)
    return s.MountFilesystem(
        mount.type,
        mount.source,
        target,
        superblock_options(options),
        options.attributes,
        options.propagation,
        options.copy_up,
    )


def _device_steps(spec: Spec, linux: Linux) -> list[s.Step]:
    """None when the container is given a /dev of somebody else's (a bind mount)."""
    if any(
        _absolute(mount.destination) == "/dev" and parse_options(mount.options).bind for mount in spec.mounts
    ):
        return []
    steps: list[s.Step] = [
        s.MakeDevice(path, "c", major, minor, 0o666) for path, major, minor in _DEFAULT_DEVICES
    ]
    defaults = {path for path, _, _ in _DEFAULT_DEVICES} | {"/dev/ptmx", "/dev/console"}
    for device in linux.devices:
        path = _absolute(device.path)
        kind = _DEVICE_KINDS.get(device.type)
        if kind is None:
            raise Invalid(f"device {device.path}: unknown type {device.type!r}")
        if path in defaults:
            continue
        if kind != "p" and (device.major is None or device.minor is None):
            raise Invalid(f"device {device.path}: major and minor numbers are needed")
        mode = 0o666 if device.file_mode is None else device.file_mode & 0o7777
        owner = (device.uid or 0, device.gid or 0)
        steps.append(s.MakeDevice(path, kind, device.major or 0, device.minor or 0, mode, *owner))
    steps += [s.MakeLink(path, destination) for path, destination in _DEFAULT_LINKS]
    steps.append(s.MakeLink("/dev/core", "/proc/kcore", "/proc/kcore"))
    return steps


def _console_steps(process: Process) -> tuple[s.Step, ...]:
    if not process.terminal:
        return ()
    size = process.console_size
    return (s.OpenConsole(size.height if size else 0, size.width if size else 0), s.BindConsole())


def _hook_steps(spec: Spec) -> list[s.Step]:
    result: list[s.Step] = []
    if spec.hooks is not None:
        if spec.hooks.prestart or spec.hooks.create_runtime:
            result.append(s.MakerHooks())
        if spec.hooks.create_container:
            result.append(s.ContainerHooks(spec.hooks.create_container, "creating"))
    return result


def _inside_steps(spec: Spec, linux: Linux, namespaces: Namespaces) -> list[s.Step]:
    result: list[s.Step] = []
    if spec.hostname:
        result.append(s.SetHostname(spec.hostname))
    if spec.domainname:
        result.append(s.SetDomainname(spec.domainname))
    result += [s.WriteSysctl(name, value) for name, value in (linux.sysctl or {}).items()]
    result += [s.ReadonlyPath(path) for path in linux.readonly_paths]
    result += [s.MaskPath(path) for path in linux.masked_paths]
    if linux.rootfs_propagation:
        result.append(s.RootPropagation(root_propagation(linux.rootfs_propagation)))
    if spec.root is not None and spec.root.readonly:
        result.append(s.ReadonlyRoot())
    return result


def _io_priority(wanted: IoPriority) -> s.SetIoPriority:
    kind = _IO_CLASSES.get(wanted.kind)
    if kind is None:
        raise Invalid(f"unknown ioPriority class {wanted.kind!r}")
    if not 0 <= wanted.priority <= 7:
        raise Invalid(f"invalid ioPriority.Priority: {wanted.priority}, it is between 0 and 7")
    return s.SetIoPriority(kind, wanted.priority)


def _personality(wanted: Personality) -> s.SetPersonality:
    if wanted.flags:
        raise Invalid("personality flags are not supported: the runtime-spec names none")
    persona = _PERSONALITIES.get(wanted.domain)
    if persona is None:
        raise Invalid(f"invalid personality domain {wanted.domain!r}")
    return s.SetPersonality(persona)


def _check_sysctl(name: str, namespaces: Namespaces) -> None:
    """Only what belongs to a namespace of the container's own may be changed. Raises `Invalid` with runc's words."""
    dotted = name.replace("/", ".") if "." not in name.split("/", 1)[0] else name
    if not all(part and part != ".." for part in name.replace("/", ".").split(".")):
        raise Invalid(f"sysctl {name!r} is not a valid name")
    if dotted in _IPC_SYSCTLS or dotted.startswith("fs.mqueue."):
        needed = ns.NEWIPC
    elif dotted.startswith("net."):
        needed = ns.NEWNET
    elif dotted in ("kernel.domainname", "kernel.hostname"):
        needed = ns.NEWUTS
    else:
        raise Invalid(f"sysctl {name!r} is not in a separate kernel namespace")
    if needed not in namespaces:
        raise Invalid(f"sysctl {name!r} is not allowed in the hosts {ns.FILES[needed]} namespace")


def _absolute(path: str) -> str:
    return posixpath.normpath("/" + path.lstrip("/"))
