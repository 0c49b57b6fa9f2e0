"""Everything that the README and the docs tell the reader to type works as printed."""

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
# Tried in tests/lm and tests/images with models that are built there.
ELSEWHERE = ("image_diffusion.md", "language_models.md")
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
BIN = Path(sys.executable).parent

# Commands that need the network, never end, or start this very test suite, and what stands in
# for them here.
STAND_INS = {
    "git clone": None,
    "cd ": None,
    "make ": "make -n",
    "rlkit board": "--help",
    "rlkit figure informed_ts": "--quick --out .",
}


class Block(NamedTuple):
    place: str
    language: str
    text: str


def _blocks() -> list[Block]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            line = text.count("\n", 0, match.start()) + 1
            found.append(Block(f"{page.name}:{line}", match[1], match[2]))
    return found


def _tried() -> list[Block]:
    return [block for block in _blocks() if not block.place.startswith(ELSEWHERE)]


def _of(language: str) -> list[object]:
    return [pytest.param(b.text, id=b.place) for b in _tried() if b.language == language]


def _commands() -> list[object]:
    commands = []
    for block in _tried():
        if block.language == "sh":
            for line in block.text.replace("\\\n", " ").splitlines():
                command = line.split("  #")[0].strip()
                if command and not command.startswith("#"):
                    commands.append(pytest.param(command, id=f"{block.place} {command}"))
    return commands


def _execute(command: list[str], cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def test_every_code_block_names_a_language_that_is_tried_here():
    assert {block.language for block in _blocks()} <= {"python", "sh", "yaml", "text"}
    assert len(_of("python")) >= 3
    assert len(_commands()) >= 8


@pytest.mark.parametrize("code", _of("python"))
def test_python_blocks_run_as_printed(code: str, tmp_path: Path):
    script = tmp_path / "block.py"
    script.write_text(code)
    _execute([sys.executable, str(script)], tmp_path)


CHECK = """
from rlkit.checker import check_problem
report = check_problem({name}(), spawn=False)
assert report.passed, report
"""


PROBLEMS = [b.text for b in _blocks() if b.language == "python" and "@problem" in b.text]


@pytest.mark.parametrize("code", PROBLEMS)
def test_printed_problems_pass_the_checks_that_are_recommended(code: str, tmp_path: Path):
    (name,) = re.findall(r"^class (\w+)", code, re.MULTILINE)
    script = tmp_path / "block.py"
    script.write_text(code + CHECK.format(name=name))
    _execute([sys.executable, str(script)], tmp_path)


@pytest.mark.parametrize("command", _commands())
def test_commands_run_as_printed(command: str, tmp_path: Path):
    for start, stand_in in STAND_INS.items():
        if command.startswith(start):
            if stand_in is None:
                return
            if stand_in == "make -n":
                _execute(["make", "-n", *command.split()[1:]], ROOT)
                return
            command = f"{command} {stand_in}"
    words = command.split()
    assert words[0] in {"rlkit", "python"}, f"{words[0]} is not tried here"
    _execute([str(BIN / words[0]), *words[1:]], ROOT if words[0] == "python" else tmp_path)


def test_relative_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_results_table_equals_the_claims_in_the_gallery():
    _execute([sys.executable, "paper_figures/gallery/table.py", "--check"], ROOT)


def test_the_page_of_speeds_is_that_of_the_measurements():
    _execute([sys.executable, "tests/benchmarks/page.py", "--check"], ROOT)


def _code_lines(text: str) -> int:
    """Lines that are neither blank nor docstring."""
    tree = ast.parse(text)
    docstrings = sum(
        node.body[0].end_lineno - node.body[0].lineno + 1
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node)
    )
    return sum(bool(line.strip()) for line in text.splitlines()) - docstrings


def test_examples_keep_the_promised_length():
    """Ten lines for the library, twenty for the class of a problem or an agent."""
    for block in _blocks():
        if block.language != "python":
            continue
        classes = [node for node in ast.parse(block.text).body if isinstance(node, ast.ClassDef)]
        if not classes:
            assert _code_lines(block.text) <= 10, block.place
        for node in classes:
            first = min(decorator.lineno for decorator in node.decorator_list)
            source = "\n".join(block.text.splitlines()[first - 1 : node.end_lineno])
            assert _code_lines(source) <= 20, f"{block.place} {node.name}"
