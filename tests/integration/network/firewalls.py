"""Real firewalls, each in the namespace of one place: all input but port 9090 is refused, nothing else is said.

What they keep on disk is a copy of the test's own; the machine's configuration is never touched.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from pathlib import Path
from typing import Protocol

from sampan.testing.places import Place

ALLOWED = 9090
_DEADLINE = 60.0


class Firewall(Protocol):
    """Made and started by its constructor from (place, an empty directory)."""

    def allow(self, port: int) -> None: ...

    def reload(self) -> None:
        """As its administrator does: everything of its own is written anew."""

    def close(self) -> None: ...


class Nftables:
    """A configuration as Debian's /etc/nftables.conf: loading it begins with `flush ruleset`."""

    def __init__(self, place: Place, directory: Path) -> None:
        self._place, self._file, self._ports = place, directory / "nftables.conf", [ALLOWED]
        self.reload()

    def allow(self, port: int) -> None:
        self._ports.append(port)
        self.reload()

    def reload(self) -> None:
        ports = ", ".join(map(str, self._ports))
        self._file.write_text(
            "flush ruleset\n"
            "table inet filter {\n"
            "  chain input {\n"
            "    type filter hook input priority filter; policy drop;\n"
            "    iif lo accept\n"
            "    ct state established,related accept\n"
            "    meta l4proto { icmp, icmpv6 } accept\n"
            f"    tcp dport {{ {ports} }} accept\n"
            "  }\n"
            "  chain forward { type filter hook forward priority filter; }\n"
            "}\n"
        )
        self._place.command("nft", "-f", str(self._file))

    def close(self) -> None:
        pass


class Iptables:
    """A saved rule set, for IPv4 and IPv6, loaded by iptables-restore."""

    variant = "nft"

    def __init__(self, place: Place, directory: Path) -> None:
        self._place, self._directory, self._ports = place, directory, [ALLOWED]
        self.reload()

    def allow(self, port: int) -> None:
        self._ports.append(port)
        self.reload()

    def reload(self) -> None:
        for command in ("iptables", "ip6tables"):
            icmp = "ipv6-icmp" if command == "ip6tables" else "icmp"
            rules = [
                "*filter",
                ":INPUT DROP [0:0]",
                ":FORWARD ACCEPT [0:0]",
                "-A INPUT -i lo -j ACCEPT",
                "-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
                f"-A INPUT -p {icmp} -j ACCEPT",
                *(f"-A INPUT -p tcp --dport {port} -j ACCEPT" for port in self._ports),
                "COMMIT",
            ]
            file = self._directory / f"{command}.rules"
            file.write_text("\n".join(rules) + "\n")
            self._place.command(f"{command}-{self.variant}-restore", str(file))

    def close(self) -> None:
        pass


class LegacyIptables(Iptables):
    variant = "legacy"


class Ufw:
    """Debian's and Ubuntu's; `ufw enable` refuses input and forwarding. Its files are bind-mounted copies."""

    legacy = False

    def __init__(self, place: Place, directory: Path) -> None:
        self._place, self._directory = place, directory
        shutil.copytree("/etc/ufw", directory / "ufw")
        shutil.copy("/etc/default/ufw", directory / "default")
        self._ufw("allow", f"{ALLOWED}/tcp")
        self._ufw("--force", "enable")

    def _ufw(self, *words: str) -> None:
        mounts = [(self._directory / "ufw", "/etc/ufw"), (self._directory / "default", "/etc/default/ufw")]
        if self.legacy:
            mounts.append((Path("/usr/sbin/xtables-legacy-multi"), "/usr/sbin/xtables-nft-multi"))
        script = [f"mount --bind {shlex.quote(str(source))} {target}" for source, target in mounts]
        command = " && ".join([*script, shlex.join(["ufw", *words])])
        self._place.command("unshare", "--mount", "sh", "-c", command)

    def allow(self, port: int) -> None:
        self._ufw("allow", f"{port}/tcp")

    def reload(self) -> None:
        self._ufw("reload")

    def close(self) -> None:
        pass


class LegacyUfw(Ufw):
    """The same on iptables-legacy, as on hosts where the administrator has chosen it."""

    legacy = True


class Firewalld:
    """Fedora's, RHEL's and SUSE's, with a message bus of its own."""

    def __init__(self, place: Place, directory: Path) -> None:
        self._place = place
        config = directory / "etc"
        config.mkdir()
        shutil.copy("/etc/firewalld/firewalld.conf", config)
        bus, self._environment = directory / "bus", dict(os.environ)
        self.bus = self._environment["DBUS_SYSTEM_BUS_ADDRESS"] = f"unix:path={bus}"
        (directory / "bus.conf").write_text(
            "<busconfig><type>system</type><auth>EXTERNAL</auth>"
            f"<listen>unix:path={bus}</listen>"
            '<policy context="default"><allow send_destination="*" eavesdrop="true"/>'
            '<allow eavesdrop="true"/><allow own="*"/>'
            "</policy></busconfig>"
        )
        self._processes: list[subprocess.Popen[bytes]] = []
        try:
            self._start("dbus-daemon", f"--config-file={directory / 'bus.conf'}", "--nofork", "--nopidfile")
            self._wait_for(bus.exists)
            log = directory / "firewalld.log"
            self._start("firewalld", "--nofork", "--nopid", f"--system-config={config}", f"--log-file={log}")
            self._wait_for(lambda: self._command("--state").returncode == 0)
            self.allow(ALLOWED)
        except BaseException:
            self.close()
            raise

    def _start(self, *words: str) -> None:
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._processes.append(
            self._place.run(lambda: subprocess.Popen(words, env=self._environment, **quiet))
        )

    def _wait_for(self, condition: object) -> None:
        deadline = time.monotonic() + _DEADLINE
        while not condition():  # type: ignore[operator]
            assert time.monotonic() < deadline, "firewalld does not come up"
            assert all(process.poll() is None for process in self._processes)
            os.sched_yield()

    def _command(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self._place.run(
            lambda: subprocess.run(
                ["firewall-cmd", *words], env=self._environment, capture_output=True, text=True, timeout=60
            )
        )

    def _must(self, *words: str) -> None:
        done = self._command(*words)
        assert done.returncode == 0, done.stderr

    def trusted(self) -> str:
        """The interfaces of that zone."""
        return self._command("--zone=trusted", "--list-interfaces").stdout.strip()

    def allow(self, port: int) -> None:
        self._must("--permanent", f"--add-port={port}/tcp")
        self._must("--reload")

    def reload(self) -> None:
        self._must("--complete-reload")

    def close(self) -> None:
        for process in reversed(self._processes):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


KINDS = {
    "nftables": Nftables,
    "iptables-nft": Iptables,
    "iptables-legacy": LegacyIptables,
    "ufw": Ufw,
    "ufw-legacy": LegacyUfw,
    "firewalld": Firewalld,
}
