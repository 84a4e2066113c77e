"""JSON objects fitted to the API's types as Go's decoder does: names in any case, null for "not given". Pure."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import inspect

Fit = Callable[[Any], Any]


@lru_cache(maxsize=64)
def fitter(kind: Any) -> Fit:
    """What makes decoded JSON ready for `msgspec.convert` to `kind`.

    Members that are null are left out. A member whose name is spelled in another case is renamed; the
    exact spelling wins over others.
    """
    return _fit(inspect.type_info(kind))


def _fit(found: inspect.Type) -> Fit:
    if isinstance(found, inspect.StructType):
        return _fit_struct(found)
    if isinstance(found, inspect.DictType):
        return _fit_map(_fit(found.value_type))
    if isinstance(found, inspect.ListType | inspect.VarTupleType):
        return _fit_list(_fit(found.item_type))
    if isinstance(found, inspect.UnionType):
        return _fit_union(found)
    return _plain


def _fit_struct(found: inspect.StructType) -> Fit:
    names = {field.encode_name: _fit(field.type) for field in found.fields}
    lower = {name.lower(): name for name in names}

    def fit(value: Any) -> Any:
        if not isinstance(value, dict):
            return _plain(value)
        fitted = {}
        for key, item in value.items():
            if item is None:
                continue
            name = key if key in names else lower.get(key.lower(), key)
            if name in names and (key == name or name not in value):
                fitted[name] = names[name](item)
        return fitted

    return fit


def _fit_map(inner: Fit) -> Fit:
    def fit(value: Any) -> Any:
        if not isinstance(value, dict):
            return _plain(value)
        return {key: inner(item) for key, item in value.items() if item is not None}

    return fit


def _fit_list(inner: Fit) -> Fit:
    def fit(value: Any) -> Any:
        return [inner(item) for item in value] if isinstance(value, list) else _plain(value)

    return fit


def _fit_union(found: inspect.UnionType) -> Fit:
    """By the shape of the value: no union of the API has two members of the same shape."""
    shapes: dict[type, Fit] = {}
    for member in found.types:
        if isinstance(member, inspect.StructType | inspect.DictType):
            shapes[dict] = _fit(member)
        elif isinstance(member, inspect.ListType | inspect.VarTupleType):
            shapes[list] = _fit(member)

    def fit(value: Any) -> Any:
        return shapes.get(type(value), _plain)(value)

    return fit


def _plain(value: Any) -> Any:
    """A value whose type has no members of its own: nulls go, names stay."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def decode(raw: bytes, kind: Any) -> Any:
    """Raises what msgspec and the JSON decoder raise, and RecursionError for JSON that is nested too deeply."""
    return msgspec.convert(fitter(kind)(msgspec.json.decode(raw or b"{}")), type=kind)
