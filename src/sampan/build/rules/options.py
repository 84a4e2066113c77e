"""The options of `# check=...` and of the build argument BUILDKIT_DOCKERFILE_CHECK."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from sampan.build.rules.finding import Rule
from sampan.errors import Invalid

_TRUTH = {"1": True, "t": True, "true": True, "0": False, "f": False, "false": False}
_COMMENT = re.compile(r"check\s*=\s*(\S+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class CheckOptions:
    skip: frozenset[str] = frozenset()
    skip_all: bool = False
    experimental: frozenset[str] = frozenset()
    experimental_all: bool = False
    error: bool = False
    """A finding fails the build."""

    def allow(self, rule: Rule) -> bool:
        """`skip` has no say about experimental rules, which are off unless they are asked for."""
        if rule.experimental:
            return self.experimental_all or rule.name in self.experimental
        return not self.skip_all and rule.name not in self.skip

    def with_comments(self, comments: tuple[str, ...]) -> CheckOptions:
        """What counts for an instruction below these comments: the first `check=` among them adds to these options.

        One that can't be read is a comment like any other.
        """
        for comment in comments:
            match = _COMMENT.match(comment)
            if match:
                try:
                    return self._joined(parse_options(match[1]))
                except Invalid:
                    return self
        return self

    def _joined(self, other: CheckOptions) -> CheckOptions:
        return CheckOptions(
            self.skip | other.skip,
            self.skip_all or other.skip_all,
            self.experimental | other.experimental,
            self.experimental_all or other.experimental_all,
            self.error,
        )


@lru_cache(maxsize=64)
def parse_options(text: str) -> CheckOptions:
    """`skip=A,B;error=true;experimental=all`. Raises `Invalid` in BuildKit's words."""
    values: dict[str, str] = {}
    for part in text.strip().split(";", 2) if text.strip() else ():
        name, equals, value = part.partition("=")
        if not equals:
            raise Invalid(f'invalid check option "{part}"', hint="skip=, error= or experimental=")
        name = name.strip()
        if name not in ("skip", "error", "experimental"):
            raise Invalid(f'invalid check option "{name}"', hint="skip, error or experimental")
        values[name] = value.strip()
    error = values.get("error", "false")
    if error.lower() not in _TRUTH:
        raise Invalid(f'failed to parse check option "error={error}"', hint="true or false")
    skip, experimental = values.get("skip", ""), values.get("experimental", "")
    return CheckOptions(
        frozenset() if skip == "all" else _names(skip),
        skip == "all",
        frozenset() if experimental == "all" else _names(experimental),
        experimental == "all",
        _TRUTH[error.lower()],
    )


def _names(text: str) -> frozenset[str]:
    return frozenset(name.strip() for name in text.split(",") if name.strip())
