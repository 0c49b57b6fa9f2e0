"""Preferences from JSONL files: one strict JSON object a line, every error with file and line.

Forms, told apart by the keys of the first line:

- `paired`: `prompt`, `chosen`, `rejected`;
- `unpaired`: `prompt`, `response`, `label` (0 or 1);
- `ranked`: `prompt`, `responses`, `ranking` (their numbers from 0, best first);
- `hh`: `chosen`, `rejected`, two transcripts whose prompt is all up to the last reply;
- `tldr`: `info.post`, `summaries[0..1].text`, `choice` (0 or 1).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from rlkit import files
from rlkit.validation import check_choice

REPLY = "\n\nAssistant:"  # opens a reply in a transcript
SUMMARY = "\n\nTL;DR:"  # asks for a summary after a post
KINDS = {"str": "text", "list": "a list", "dict": "an object"}


class Comparison(NamedTuple):
    """A preferred and another response to one prompt."""

    place: str  # file and line, for messages
    prompt: str
    chosen: str
    rejected: str


class Verdict(NamedTuple):
    """A response and whether it is desirable."""

    place: str  # file and line, for messages
    prompt: str
    response: str
    desirable: bool


@dataclass(frozen=True)
class Preferences:
    """What a file holds: comparisons or verdicts, in its order."""

    comparisons: tuple[Comparison, ...]
    verdicts: tuple[Verdict, ...]


class Row(NamedTuple):
    """A line of a file."""

    place: str  # file and line
    content: dict[str, Any]

    def fail(self, problem: str) -> ValueError:
        """An error that names the place."""
        return ValueError(f"{self.place}: {problem}")

    def value(self, key: str, kind: type, inside: dict[str, Any] | None = None) -> Any:
        """The value of a key, of the row or of an object inside it.

        Raises:
            ValueError: the key is missing or holds another type.
        """
        content = self.content if inside is None else inside
        if key not in content:
            raise self.fail(f"key {key!r} is missing; keys: {', '.join(sorted(content)) or 'none'}")
        found = content[key]
        if not isinstance(found, kind):
            accepted = KINDS.get(kind.__name__, "another type")
            raise self.fail(f"key {key!r} is {type(found).__name__}; accepted: {accepted}")
        return found

    def text(self, key: str, inside: dict[str, Any] | None = None) -> str:
        """A text that is not blank; errors as `value`."""
        found: str = self.value(key, str, inside)
        return self.checked(key, found)

    def checked(self, key: str, text: str) -> str:
        """The same text.

        Raises:
            ValueError: it is blank, or no Unicode (half of a surrogate pair).
        """
        if not text.strip():
            raise self.fail(f"key {key!r} is empty; accepted: text that is not blank")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise self.fail(f"key {key!r} holds half a surrogate pair; accepted: Unicode text")
        return text

    def binary(self, key: str) -> bool:
        """A label.

        Raises:
            ValueError: it is missing or neither 0 nor 1.
        """
        found = self.value(key, object)
        if not isinstance(found, int | float) or found not in (0, 1):
            raise self.fail(f"key {key!r} is {found!r}; accepted: 0 or 1")
        return bool(found)


def paired(row: Row) -> list[Comparison]:
    """A comparison as it stands."""
    return [Comparison(row.place, row.text("prompt"), row.text("chosen"), row.text("rejected"))]


def unpaired(row: Row) -> list[Verdict]:
    """A response with its label."""
    return [Verdict(row.place, row.text("prompt"), row.text("response"), row.binary("label"))]


def ranked(row: Row) -> list[Comparison]:
    """All comparisons that a ranking implies.

    Raises:
        ValueError: fewer than two responses, an empty one, one twice, or a ranking that does not
            hold each of their numbers once.
    """
    prompt = row.text("prompt")
    responses, ranking = row.value("responses", list), row.value("ranking", list)
    if len(responses) < 2:
        raise row.fail(f"key 'responses' has {len(responses)}; accepted: two or more")
    for number, response in enumerate(responses):
        if not isinstance(response, str):
            raise row.fail(f"response {number} is {type(response).__name__}; accepted: text")
        row.checked(f"responses[{number}]", response)
    whole = all(isinstance(i, int) and not isinstance(i, bool) for i in ranking)
    if not whole or sorted(ranking) != list(range(len(responses))):
        raise row.fail(
            f"key 'ranking' is {ranking!r:.60}; accepted: 0 .. {len(responses) - 1}, each once"
        )
    ordered = [responses[number] for number in ranking]
    return [Comparison(row.place, prompt, a, b) for a, b in combinations(ordered, 2)]


def hh(row: Row) -> list[Comparison]:
    """Two transcripts that differ in their last reply.

    Raises:
        ValueError: no reply, an empty one, or prompts that differ.
    """
    prompts, replies = [], []
    for key in ("chosen", "rejected"):
        transcript = row.text(key)
        begin = transcript.rfind(REPLY)
        if begin < 0:
            raise row.fail(f"key {key!r} has no {REPLY!r}; accepted: a transcript with a reply")
        prompts.append(transcript[: begin + len(REPLY)])
        replies.append(row.checked(key, transcript[begin + len(REPLY) :]))
    if prompts[0] != prompts[1]:
        raise row.fail("the prompts of 'chosen' and 'rejected' differ; accepted: one prompt")
    return [Comparison(row.place, prompts[0], *replies)]


def tldr(row: Row) -> list[Comparison]:
    """Two summaries of a post, of which `choice` is the better.

    Raises:
        ValueError: other than two summaries, or a choice that is neither 0 nor 1.
    """
    post = row.text("post", row.value("info", dict))
    summaries = row.value("summaries", list)
    if len(summaries) != 2 or not all(isinstance(each, dict) for each in summaries):
        raise row.fail(f"key 'summaries' has {len(summaries)} entries; accepted: two objects")
    texts = [row.text("text", each) for each in summaries]
    choice = row.binary("choice")
    return [Comparison(row.place, post + SUMMARY, texts[choice], texts[1 - choice])]


FORMS: dict[str, Callable[[Row], list[Comparison] | list[Verdict]]] = {
    "paired": paired,
    "unpaired": unpaired,
    "ranked": ranked,
    "hh": hh,
    "tldr": tldr,
}
MARKS = {"summaries": "tldr", "responses": "ranked", "response": "unpaired", "prompt": "paired"}


def form_of(row: Row) -> str:
    """The form that the keys of a row suggest.

    Raises:
        ValueError: none.
    """
    for key, form in MARKS.items():
        if key in row.content:
            return form
    if "chosen" in row.content:
        return "hh"
    raise row.fail(
        f"keys {', '.join(sorted(row.content)) or 'none'} fit no form; "
        f"accepted: those of {', '.join(FORMS)}"
    )


def read_preferences(path: Path, form: str = "auto") -> Preferences:
    """Read a file of preferences.

    Args:
        path: of the file, UTF-8.
        form: one of `FORMS`, or "auto" for the one that the first line has.

    Raises:
        ValueError: an unknown form; a file that is missing or empty; a line that is not UTF-8, no
            strict JSON object, lacks a key, has an empty response or a label outside its range,
            compares a response with itself, or repeats an earlier line. Names file and line.
    """
    check_choice("form", form, ("auto", *FORMS))
    comparisons: list[Comparison] = []
    verdicts: list[Verdict] = []
    seen: dict[tuple[object, ...], str] = {}
    for row in rows_of(path):
        form = form_of(row) if form == "auto" else form
        for example in FORMS[form](row):
            earlier = seen.setdefault(example[1:], example.place)
            if earlier != example.place:
                raise row.fail(f"the same as {earlier}; accepted: each example once")
            if isinstance(example, Verdict):
                verdicts.append(example)
                continue
            if example.chosen == example.rejected:
                raise row.fail("compares a response with itself; accepted: two responses")
            comparisons.append(example)
    if not seen:
        raise ValueError(f"{path}: empty; accepted: at least one line")
    return Preferences(tuple(comparisons), tuple(verdicts))


def rows_of(path: Path) -> Iterator[Row]:
    """The lines of a JSONL file.

    Raises:
        ValueError: the file cannot be read; a line that is not UTF-8 or no strict JSON object.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                yield Row(f"{path}, line {number}", parsed(f"{path}, line {number}", line))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from None


def parsed(place: str, line: bytes) -> dict[str, Any]:
    """The object on a line.

    Raises:
        ValueError: not UTF-8, blank, or no strict JSON object; names the place.
    """
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{place}: not UTF-8 at byte {error.start + 1} of the line") from None
    if not text.strip():
        raise ValueError(f"{place}: blank; accepted: a JSON object")
    try:
        return files.loads(text)
    except ValueError as error:
        raise ValueError(f"{place}: not a JSON object: {error}") from None
