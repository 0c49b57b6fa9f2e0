"""Reading registered classes from source text, without importing it."""

import ast
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final


class _Required:
    """Marks a field without default."""

    def __repr__(self) -> str:
        return "required"


REQUIRED: Final = _Required()


@dataclass(frozen=True)
class Field:
    """A parameter: its annotation as text, its default value and the comment on its line."""

    name: str
    annotation: str
    default: Any
    comment: str


@dataclass(frozen=True)
class Entry:
    """A registered class as its source describes it.

    Attributes:
        name: it is registered under.
        kind: "problem" or "agent".
        module: to import it from.
        class_name: in that module.
        summary: first line of its docstring.
        doc: whole docstring.
        fields: parameters in order.
        needs: `Known` fields without which an agent cannot run.
        compilable: False where an agent's control flow depends on data.
        example_agent: one that acts on a problem, for the example of its description.
        path: source file.
    """

    name: str
    kind: str
    module: str
    class_name: str
    summary: str
    doc: str
    fields: tuple[Field, ...]
    needs: tuple[str, ...]
    compilable: bool
    example_agent: str
    path: Path


def names(path: Path, module: str, kind: str) -> dict[str, str]:
    """Registered names and the modules that register them, by text search alone."""
    pattern = re.compile(rf"^@(?:\w+\.)?{kind}\(\s*[\"']([^\"']+)[\"']", re.MULTILINE)
    return {
        name: inner
        for file, inner in _modules(path, module)
        for name in pattern.findall(file.read_text(encoding="utf-8"))
    }


def _modules(path: Path, module: str) -> Iterator[tuple[Path, str]]:
    """Python files at or below `path`, in order, with their module names."""
    if path.is_file():
        yield path, module
        return
    for file in sorted(path.rglob("*.py")):
        inner = file.relative_to(path).with_suffix("").parts
        parts = inner[:-1] if inner[-1:] == ("__init__",) else inner
        yield file, ".".join((module, *parts))


def scan(path: Path, module: str, kind: str) -> tuple[list[Entry], list[str]]:
    """Entries of `kind` in a file, or in all files below a folder, and what could not be read.

    One bad file (a syntax error, a name or default that is no literal) hides no other.
    """
    found: list[Entry] = []
    unread: list[str] = []
    for file, inner in _modules(path, module):
        try:
            found.extend(_read(file, inner, kind))
        except ValueError as error:
            unread.append(str(error))
    return found, unread


def module_summary(path: Path) -> str:
    """First line of a module's docstring, empty without one."""
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    return doc.splitlines()[0] if doc else ""


def _read(path: Path, module: str, kind: str) -> list[Entry]:
    text = path.read_text(encoding="utf-8")
    if f"@{kind}(" not in text and f".{kind}(" not in text:
        return []
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise ValueError(f"{path}: line {error.lineno} is not valid Python") from None
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    lines = text.encode().split(b"\n")
    return [
        _entry(node, name, path, module, kind, classes, lines)
        for node in classes.values()
        for name in _names(node, kind, path)
    ]


def _names(node: ast.ClassDef, kind: str, path: Path) -> Iterator[str]:
    for decorator in node.decorator_list:
        if not isinstance(decorator, ast.Call):
            continue
        function = decorator.func
        called = (
            function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        )
        if called != kind:
            continue
        argument = decorator.args[0] if len(decorator.args) == 1 else None
        if not isinstance(argument, ast.Constant) or not isinstance(argument.value, str):
            raise ValueError(f"{path}:{decorator.lineno}: @{kind} takes one literal string")
        yield argument.value


def _entry(
    node: ast.ClassDef,
    name: str,
    path: Path,
    module: str,
    kind: str,
    classes: dict[str, ast.ClassDef],
    text: list[bytes],
) -> Entry:
    fields: dict[str, Field] = {}
    constants: dict[str, Any] = {"needs": (), "compilable": True, "example_agent": "uniform"}
    for owner in (*_bases(node, classes), node):
        for line in owner.body:
            if not isinstance(line, ast.AnnAssign) or not isinstance(line.target, ast.Name):
                continue
            target, annotation = line.target.id, ast.unparse(line.annotation)
            if not annotation.startswith(("ClassVar", "typing.ClassVar")):
                comment = _comment(line, text)
                default = _value(line.value, f"{path}:{line.lineno}: default of {target}")
                fields[target] = Field(target, annotation, default, comment)
            elif target in constants:
                constants[target] = _value(line.value, f"{path}:{line.lineno}: {target}")
    doc = ast.get_docstring(node) or ""
    return Entry(
        name=name,
        kind=kind,
        module=module,
        class_name=node.name,
        summary=doc.splitlines()[0] if doc else "",
        doc=doc,
        fields=tuple(fields.values()),
        path=path,
        **constants,
    )


def _bases(node: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> list[ast.ClassDef]:
    """Base classes of the same file, furthest first, as dataclass collects fields."""
    found: list[ast.ClassDef] = []
    for base in reversed(node.bases):
        if isinstance(base, ast.Name) and base.id in classes:
            parent = classes[base.id]
            found.extend((*_bases(parent, classes), parent))
    return found


def _value(node: ast.expr | None, where: str) -> Any:
    """Value of a literal expression, of `float("inf")` or of `math.inf`."""
    if node is None:
        return REQUIRED
    text = ast.unparse(node)
    sign, positive = (-1, text[1:]) if text.startswith("-") else (1, text)
    if positive in ("float('inf')", "math.inf"):
        return sign * math.inf
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise ValueError(f"{where} is {text}, not a literal") from None


def _comment(line: ast.AnnAssign, text: list[bytes]) -> str:
    """Comment behind a field's default, within its brackets too, else behind the field."""
    for node in (line.value, line):
        if node is not None:
            rest = text[(node.end_lineno or 1) - 1][node.end_col_offset or 0 :].strip()
            if rest.startswith(b"#"):
                return rest.decode().lstrip("# ")
    return ""
