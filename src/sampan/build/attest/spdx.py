"""Packages as an SPDX 2.3 document in JSON (spdx.github.io/spdx-spec/v2.3). Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from sampan.build.attest.packages import Distribution, Package

_CREATOR = "Tool: sampan"
_LICENSE = re.compile(r"[A-Za-z0-9.+-]+(?: (?:AND|OR|WITH) [A-Za-z0-9.+-]+)*")
"""Simple license expressions (annex D); anything else is not asserted."""


def document(name: str, created: str, packages: Sequence[Package], distro: Distribution) -> dict[str, object]:
    """`created`: RFC 3339 in UTC, whole seconds. The same packages give the same document but for that."""
    listed = sorted(set(packages))
    told = "\n".join((name, created, *(one.url for one in listed)))
    root = {
        "SPDXID": "SPDXRef-DocumentRoot-Image",
        "name": name,
        "versionInfo": distro.version or "NOASSERTION",
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "primaryPackagePurpose": "CONTAINER",
    }
    described = {
        "spdxElementId": "SPDXRef-DOCUMENT",
        "relatedSpdxElement": root["SPDXID"],
        "relationshipType": "DESCRIBES",
    }
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "documentNamespace": f"https://spdx.org/spdxdocs/sampan-{hashlib.sha256(told.encode()).hexdigest()}",
        "creationInfo": {"created": created, "creators": [_CREATOR]},
        "packages": [root, *(_package(one) for one in listed)],
        "relationships": [
            described,
            *(
                {
                    "spdxElementId": root["SPDXID"],
                    "relatedSpdxElement": _id(one),
                    "relationshipType": "CONTAINS",
                }
                for one in listed
            ),
        ],
    }


def _id(package: Package) -> str:
    """Unique, and of the characters that the specification allows (letters, digits, `.`, `-`)."""
    told = f"{package.url} {package.found_in}"
    name = re.sub(r"[^A-Za-z0-9.-]", "-", package.name)[:80]
    return f"SPDXRef-Package-{package.kind}-{name}-{hashlib.sha256(told.encode()).hexdigest()[:16]}"


def _package(package: Package) -> dict[str, object]:
    declared = package.license if _LICENSE.fullmatch(package.license) else "NOASSERTION"
    scope = f"{package.namespace}/" if package.kind == "npm" and package.namespace else ""
    return {
        "SPDXID": _id(package),
        "name": scope + package.name,
        "versionInfo": package.version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "sourceInfo": f"acquired package information from {package.found_in}",
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": declared,
        "copyrightText": "NOASSERTION",
        "externalRefs": [
            {
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": package.url,
            }
        ],
    }
