"""Go templates for `--format`: parse once, execute on JSON values or on rows of a listing."""

from __future__ import annotations

from sampan.cli.template_functions import FUNCTIONS, NOTHING, Nothing, Record, show, truth
from sampan.cli.template_parser import Node, Parser, TemplateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Fields of the API that hold maps with free keys: a missing key there has no value, anywhere else it is a mistake.
_FREE_KEYS = frozenset(
    [
        "Labels",
        "Options",
        "Networks",
        "Ports",
        "PortBindings",
        "Volumes",
        "ExposedPorts",
        "Sysctls",
        "Tmpfs",
        "Annotations",
        "StorageOpt",
        "Containers",
        "Data",
        "DriverOpts",
        "AuxiliaryAddresses",
        "Attributes",
        "Runtimes",
        "IndexConfigs",
    ]
)
# Fields that the engine leaves out of its JSON when they are not set, though Docker's types have them.
_OPTIONAL = frozenset(
    [
        "Health",
        "Healthcheck",
        "StopTimeout",
        "StopSignal",
        "Shell",
        "OnBuild",
        "MacAddress",
        "ArgsEscaped",
        "NetworkDisabled",
        "Init",
        "Mounts",
        "Tmpfs",
        "Sysctls",
        "Annotations",
        "StorageOpt",
        "Runtime",
        "GraphDriver",
        "SizeRw",
        "SizeRootFs",
        "DeviceRequests",
        "UsageData",
        "CreatedAt",
        "Variant",
        "OSVersion",
        "Comment",
        "Author",
        "Volumes",
        "ExposedPorts",
        "Identity",
        "ImageManifestDescriptor",
    ]
)
# The same, where Docker's types have a string or a map that is empty then.
_EMPTY: dict[str, object] = {
    "Driver": "",
    "Gateway": "",
    "IPRange": "",
    "Status": {},
}

__all__ = ["FUNCTIONS", "NOTHING", "Record", "Template", "TemplateError", "show"]


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


class Template:
    """A parsed template. Raises `TemplateError` when the text is none."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._nodes = Parser(source, FUNCTIONS).parse()

    def render(self, data: Any) -> str:
        """The text for one value. Raises `TemplateError` with Go's words and the place in the template."""
        output: list[str] = []
        _Execution(self.source, output, data).walk(self._nodes, data)
        return "".join(output)


def _method(node: Node, dot: Any) -> Any:
    """The function behind `.Name ARGUMENT`, when `dot` is a row that has one."""
    if isinstance(dot, Record) and node.kind == "field" and len(node.parts[0]) == 1:
        return dot.methods.get(node.parts[0][0])
    return None


class _Execution:
    def __init__(self, source: str, output: list[str], data: Any) -> None:
        self._source = source
        self._output = output
        self._variables: list[tuple[str, Any]] = [("$", data)]

    def walk(self, nodes: list[Node], dot: Any) -> None:
        for node in nodes:
            kind = node.kind
            if kind == "text":
                self._output.append(node.parts[0])
            elif kind == "action":
                value = self._pipe(node.parts[0], dot)
                if not node.parts[0].parts[0]:
                    self._output.append(show(value))
            elif kind == "range":
                self._range(node, dot)
            elif kind == "break":
                raise _Break
            elif kind == "continue":
                raise _Continue
            else:
                self._branch(node, dot)

    def _branch(self, node: Node, dot: Any) -> None:
        pipe, body, otherwise = node.parts
        mark = len(self._variables)
        value = self._pipe(pipe, dot)
        if truth(value):
            self.walk(body, value if node.kind == "with" else dot)
        else:
            self.walk(otherwise, dot)
        del self._variables[mark:]

    def _range(self, node: Node, dot: Any) -> None:
        pipe, body, otherwise = node.parts
        names = pipe.parts[0]
        mark = len(self._variables)
        items = self._items(pipe, self._pipe(pipe, dot, declare=False))
        for key, value in items:
            if len(names) == 1:
                self._variables.append((names[0], value))
            elif names:
                self._variables += [(names[0], key), (names[1], value)]
            try:
                self.walk(body, value)
            except _Continue:
                continue
            except _Break:
                break
            finally:
                del self._variables[mark:]
        if not items:
            self.walk(otherwise, dot)

    def _items(self, pipe: Node, value: Any) -> list[tuple[Any, Any]]:
        if value is None or isinstance(value, Nothing):
            return []
        if isinstance(value, list):
            return list(enumerate(value))
        if isinstance(value, dict):
            return [(key, value[key]) for key in sorted(value)]
        if isinstance(value, int) and not isinstance(value, bool):
            return [(number, number) for number in range(value)]
        raise self._error(pipe, f"range can't iterate over {show(value)}")

    def _pipe(self, pipe: Node, dot: Any, *, declare: bool = True) -> Any:
        names, assigns, commands = pipe.parts
        value: Any = None
        for index, operands in enumerate(commands):
            value = self._command(operands, dot, [value] if index else [])
        if names and declare:
            if assigns:
                self._assign(names[0], value)
            else:
                self._variables.append((names[0], value))
        return value

    def _assign(self, name: str, value: Any) -> None:
        for index in range(len(self._variables) - 1, -1, -1):
            if self._variables[index][0] == name:
                self._variables[index] = (name, value)
                return

    def _command(self, operands: list[Node], dot: Any, piped: list[Any]) -> Any:
        first = operands[0]
        if first.kind == "function":
            return self._call(first, operands[1:], dot, piped)
        if len(operands) > 1 or piped:
            method = _method(first, dot)
            if method is not None:
                return method(*[self._operand(operand, dot) for operand in operands[1:]], *piped)
            if first.kind in ("field", "variable", "chain"):
                name = first.text.rpartition(".")[2]
                raise self._error(first, f"{name} is not a method but has arguments")
            raise self._error(first, f"can't give argument to non-function {first.text}")
        return self._operand(first, dot)

    def _call(self, node: Node, operands: list[Node], dot: Any, piped: list[Any]) -> Any:
        name = node.parts[0]
        if name in ("and", "or"):
            return self._decide(name, operands, dot, piped)
        arguments = [self._operand(operand, dot) for operand in operands] + piped
        try:
            return FUNCTIONS[name](*arguments)
        except ValueError as error:
            raise self._error(node, f"error calling {name}: {error}") from None
        except TypeError:
            raise self._error(
                node, f"wrong number or type of args for {name}: got {len(arguments)}"
            ) from None

    def _decide(self, name: str, operands: list[Node], dot: Any, piped: list[Any]) -> Any:
        value: Any = None
        for operand in operands:
            value = self._operand(operand, dot)
            if truth(value) == (name == "or"):
                return value
        return piped[0] if piped else value

    def _operand(self, node: Node, dot: Any) -> Any:
        kind = node.kind
        if kind == "field":
            return self._fields(node, dot, node.parts[0])
        if kind == "dot":
            return dot
        if kind == "literal":
            return node.parts[0]
        if kind == "variable":
            return self._fields(node, self._variable(node.parts[0]), node.parts[1])
        if kind == "pipe":
            return self._pipe(node, dot)
        if kind == "chain":
            return self._fields(node, self._operand(node.parts[0], dot), node.parts[1])
        if kind == "function":
            return self._call(node, [], dot, [])
        return None

    def _variable(self, name: str) -> Any:
        for known, value in reversed(self._variables):
            if known == name:
                return value
        return NOTHING

    def _fields(self, node: Node, value: Any, names: list[str]) -> Any:
        parent = ""
        for index, name in enumerate(names):
            value = self._field(node, value, name, parent, last=index == len(names) - 1)
            parent = name
        return value

    def _field(self, node: Node, value: Any, name: str, parent: str, *, last: bool) -> Any:
        if isinstance(value, Record):
            if not value.has(name):
                raise self._error(node, f"can't evaluate field {name} in type *formatter.{value.kind}")
            return value.get(name)
        if isinstance(value, dict):
            if name in value:
                return value[name]
            return self._absent(node, value, name, parent, last=last)
        if value is None or isinstance(value, Nothing):
            raise self._error(node, f"nil pointer evaluating interface {{}}.{name}")
        from sampan.cli.template_functions import type_name

        raise self._error(node, f"can't evaluate field {name} in type {type_name(value)}")

    def _absent(self, node: Node, value: dict[str, Any], name: str, parent: str, *, last: bool) -> Any:
        """A key that the JSON does not have: spelled as in Docker's Go types (ID for Id), optional, or wrong."""
        if parent in _FREE_KEYS:
            return NOTHING
        for key in value:
            if key.lower() == name.lower():
                return value[key]
        if last and name in _EMPTY:
            return _EMPTY[name]
        if last and name in _OPTIONAL:
            return None
        raise self._error(node, f'map has no entry for key "{name}"')

    def _error(self, node: Node, message: str) -> TemplateError:
        before = self._source[: node.position]
        line = before.count("\n") + 1
        column = len(before) - (before.rfind("\n") + 1)
        text = node.text if len(node.text) <= 20 else node.text[:20] + "..."
        return TemplateError(f'template: :{line}:{column}: executing "" at <{text}>: {message}')
