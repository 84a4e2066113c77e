"""`--cache-from` and `--cache-to`: what the engine is told, and what it may ask of directories here."""

from __future__ import annotations

from sampan.cli.failure import Failure
from sampan.cli.flags import split_csv

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sampan.cli.flags import Values
    from sampan.multiplex.link import Stream

    Offers = dict[tuple[str, str], Callable[[Stream], None]]


def cache_sources(flags: Values) -> list[str]:
    """IMAGE,IMAGE are several; the commas of type=…,ref=… belong to it. Raises `Failure`."""
    parts = [part for text in flags["cache-from"] for part in ([text] if "=" in text else text.split(","))]
    return [_named(text, "from", number) for number, text in enumerate(parts)]


def cache_targets(flags: Values) -> list[str]:
    """Raises `Failure`."""
    return [_named(text, "to", number) for number, text in enumerate(flags["cache-to"])]


def cache_offers(flags: Values) -> Offers:
    """The directories among them, by the ids that the engine is told."""
    offers: Offers = {}
    for texts, key in ((cache_sources(flags), "src"), (cache_targets(flags), "dest")):
        for text in texts:
            fields = _fields(text)
            if fields.get("type") == "local":
                from sampan.cli.build.cache_directory import CacheDirectory

                directory = CacheDirectory(
                    fields[key],
                    fields.get("tag") or "latest",
                    writable=key == "dest",
                    pruned=fields.get("prune", "").lower() in ("1", "t", "true"),
                )
                try:
                    directory.prepare()
                except OSError as error:
                    raise Failure(
                        f"failed to create cache storage dir: {error.filename}: {error.strerror}"
                    ) from error
                offers["cache", fields["id"]] = directory.serve
    return offers


def _named(text: str, direction: str, number: int) -> str:
    """A directory gets the id by which the session knows it."""
    fields = _fields(text)
    if fields.get("type") != "local":
        return text
    key, what = ("src", "importer") if direction == "from" else ("dest", "exporter")
    if not fields.get(key):
        raise Failure(f"local cache {what} requires {key}")
    return f"{text},id=cache-{direction}-{number}"


def _fields(text: str) -> dict[str, str]:
    """What the engine can't read is its to refuse."""
    fields: dict[str, str] = {}
    for part in split_csv(text) if "=" in text else ():
        name, _, value = part.partition("=")
        fields[name.strip().lower()] = value
    return fields
