"""What package managers leave in a root file system, as packages. Pure: text in, values out.

Texts come from images and are hostile: what can't be read is left out, nothing is believed but names and versions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from email.parser import HeaderParser
from urllib.parse import quote

MAX_FIELD = 1024
"""Characters of a name or version."""
_MAX_LINE = 8192
"""Characters of a line that are looked at."""
_NOT_SHOWN = re.compile(
    # Control characters, what changes the direction of writing or takes no room, halves of surrogate pairs.
    r"[^\x20-\x7e\xa0-\u061b\u061d-\u200a\u2010-\u2027\u202f-\u205f\u2070-\ud7ff\uf900-\ufefe\uff00-\uffef\ufffd]"
)


@dataclass(frozen=True, slots=True, order=True)
class Package:
    kind: str
    """The type of its package URL: deb, apk, pypi, npm."""
    name: str
    version: str
    namespace: str = ""
    """The distribution's name for deb and apk, an npm scope, "" otherwise."""
    architecture: str = ""
    license: str = ""
    """As the package says it; not checked."""
    found_in: str = ""
    """The file that tells of it."""

    @property
    def url(self) -> str:
        """The package URL (purl-spec)."""
        space = f"{quote(self.namespace, safe='')}/" if self.namespace else ""
        arch = f"?arch={quote(self.architecture, safe='')}" if self.architecture else ""
        return f"pkg:{self.kind}/{space}{quote(self.name, safe='')}@{quote(self.version, safe='')}{arch}"


@dataclass(frozen=True, slots=True)
class Distribution:
    """From /etc/os-release."""

    id: str = ""
    version: str = ""


def distribution(text: str) -> Distribution:
    """os-release(5): shell-like assignments."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    values = {name.strip(): value.strip().strip("\"'") for name, _, value in pairs}
    return Distribution(_clean(values.get("ID", "")), _clean(values.get("VERSION_ID", "")))


def dpkg_packages(text: str, distro: str, found_in: str) -> Iterator[Package]:
    """/var/lib/dpkg/status, or a file of status.d: those that are installed (deb-control(5), dpkg(1) on states)."""
    for fields in _paragraphs(text, _DPKG):
        status = fields.get("Status", "install ok installed")
        if fields.get("Package") and fields.get("Version") and status.split()[-1:] == ["installed"]:
            yield Package(
                "deb",
                fields["Package"],
                fields["Version"],
                distro or "debian",
                fields.get("Architecture", ""),
                found_in=found_in,
            )


def apk_packages(text: str, distro: str, found_in: str) -> Iterator[Package]:
    """/lib/apk/db/installed: P name, V version, A architecture, L license."""
    for fields in _paragraphs(text, _APK):
        if fields.get("P") and fields.get("V"):
            yield Package(
                "apk",
                fields["P"],
                fields["V"],
                distro or "alpine",
                fields.get("A", ""),
                fields.get("L", ""),
                found_in,
            )


def python_package(text: str, found_in: str) -> Package | None:
    """METADATA of a .dist-info (core metadata specification)."""
    headers = HeaderParser().parsestr(text[: 64 << 10])
    name, version = _clean(str(headers.get("Name", ""))), _clean(str(headers.get("Version", "")))
    if not name or not version:
        return None
    normal = re.sub(r"[-_.]+", "-", name).lower()
    license_text = _clean(str(headers.get("License-Expression", "")))
    return Package("pypi", normal, version, license=license_text, found_in=found_in)


def npm_package(text: str, found_in: str) -> Package | None:
    """package.json of an installed module."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(body, dict):
        return None
    name, version, said = body.get("name"), body.get("version"), body.get("license", "")
    if not isinstance(name, str) or not isinstance(version, str) or not name or not version:
        return None
    scope, _, short = _clean(name).rpartition("/")
    license_text = _clean(said) if isinstance(said, str) else ""
    return Package("npm", short, _clean(version), scope, license=license_text, found_in=found_in)


def shown_path(path: str) -> str:
    """A path in an image as text that can be written anywhere."""
    return _NOT_SHOWN.sub("\ufffd", path)


def _fields_of(*names: str) -> re.Pattern[str]:
    """A wanted field and its first line, or the end of a paragraph."""
    return re.compile(rf"(?m)^(?:({'|'.join(names)}):([^\n]{{0,{_MAX_LINE}}})|[ \t\r]*$\s*)")


_DPKG = _fields_of("Package", "Version", "Status", "Architecture")
_APK = _fields_of("P", "V", "A", "L")


def _paragraphs(text: str, fields: re.Pattern[str]) -> Iterator[dict[str, str]]:
    """One after the other: a text of short lines must not become a list of them."""
    found: dict[str, str] = {}
    for match in fields.finditer(text):
        name, value = match.groups()
        if name is not None:
            found.setdefault(name, _clean(value))
        elif found:
            yield found
            found = {}
    if found:
        yield found


def _clean(text: str) -> str:
    return _NOT_SHOWN.sub("", text[:_MAX_LINE].strip())[:MAX_FIELD]
