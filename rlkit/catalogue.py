"""Text of `rlkit list` and `rlkit describe`, from source text alone."""

import ast
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rlkit import registry
from rlkit.registry import REQUIRED, Entry, Field, Kind, Page
from rlkit.validation import nearest

SECTIONS = ("envs", "agents", "experiments", "figures")
KINDS: dict[str, Kind] = {"envs": "problem", "agents": "agent"}


def section(what: str) -> Mapping[str, Entry | Page]:
    """Entries or pages of one of `SECTIONS` by name."""
    if what in KINDS:
        return registry.entries(KINDS[what])
    return registry.experiments() if what == "experiments" else registry.figures()


def show_list(what: str, as_json: bool) -> None:
    """Print names and summaries; reasons why something was left out go to standard error."""
    rows = {name: item.summary for name, item in section(what).items()}
    if as_json:
        print(json.dumps([_record(what, item) for item in section(what).values()], indent=2))
    elif sys.stdout.isatty():
        _show_table(rows)
    else:
        width = max(map(len, rows), default=0)
        for name, summary in rows.items():
            print(f"{name:<{width}}  {summary}".rstrip())
    for reason in registry.unread(KINDS[what]) if what in KINDS else []:
        print(f"rlkit: left out: {reason}", file=sys.stderr)


def _show_table(rows: Mapping[str, str]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, summary in rows.items():
        table.add_row(name, summary)
    Console().print(table)


def _record(what: str, item: Entry | Page) -> dict[str, Any]:
    record: dict[str, Any] = {"name": item.name, "summary": item.summary}
    if isinstance(item, Entry):
        if what == "envs":
            record["id"] = f"rlkit/{item.name}"
        record["fields"] = [_field_record(field) for field in item.fields]
        if item.needs:
            record["needs"] = list(item.needs)
    return record


def _field_record(field: Field) -> dict[str, Any]:
    record: dict[str, Any] = {"name": field.name, "type": field.annotation}
    if field.default is not REQUIRED:
        infinite = isinstance(field.default, float) and abs(field.default) == float("inf")
        record["default"] = str(field.default) if infinite else field.default
    return record | {"description": field.comment}


def show_description(name: str) -> None:
    """Print everything known about a name.

    Raises:
        ValueError: nothing has this name; the message lists the nearest.
    """
    found = [(what, section(what)[name]) for what in SECTIONS if name in section(what)]
    if not found:
        every = {known for what in SECTIONS for known in section(what)}
        raise ValueError(f"{name!r} unknown{nearest(name, every)}")
    print("\n\n".join(_describe(what, item) for what, item in found))


def _describe(what: str, item: Entry | Page) -> str:
    if isinstance(item, Entry):
        return _describe_entry(item)
    text = item.path.read_text(encoding="utf-8").rstrip()
    if what == "experiments":
        return f"experiment {item.name}\n\n{text}\n\nExample\n  rlkit run experiment={item.name}"
    doc = ast.get_docstring(ast.parse(text)) or ""
    return f"figure {item.name}\n\n{doc}\n\nExample\n  rlkit figure {item.name} --quick"


def _describe_entry(item: Entry) -> str:
    lines = [f"{item.kind} {item.name}  ({item.module}.{item.class_name})", "", item.doc]
    if item.fields:
        lines += ["", "Fields"]
        rows = [(f"{f.name}: {f.annotation}", _default(f), f.comment) for f in item.fields]
        widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
        lines += [f"  {a:<{widths[0]}}  {b:<{widths[1]}}  {c}".rstrip() for a, b, c in rows]
    if item.needs:
        lines += ["", f"Needs a problem that discloses: {', '.join(item.needs)}"]
    return "\n".join([*lines, "", "Example", *(f"  {line}" for line in _examples(item))])


def _default(field: Field) -> str:
    return "required" if field.default is REQUIRED else f"= {field.default!r}"


def _examples(item: Entry) -> list[str]:
    group = "env" if item.kind == "problem" else "agent"
    numbers = [f for f in item.fields if isinstance(f.default, int | float)]
    field = f" {group}.{numbers[0].name}={numbers[0].default}" if numbers else ""
    partner = f" agent={item.example_agent}" if item.kind == "problem" else ""
    example = [f"rlkit run {group}={item.name}{partner}{field}"]
    if item.kind == "problem":
        argument = f", {numbers[0].name}={numbers[0].default}" if numbers else ""
        example.append(f'gymnasium.make("rlkit/{item.name}"{argument})')
    return example


def parse_fields(texts: Sequence[str]) -> dict[str, Any]:
    """Values of `field=value` texts; a value is a Python literal, or text.

    Raises:
        ValueError: a text without `=`.
    """
    values: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.isidentifier() or key == "name":
            raise ValueError(f"{text!r} is no field; allowed: field=value")
        try:
            values[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            values[key] = value
    return values
