"""Reading preferences from JSONL: every form, and every refusal with file and line."""

import json

import pytest

from rlkit.lm.data import Comparison, read_preferences

PAIR = {"prompt": "p", "chosen": "a", "rejected": "b"}
SAID = "\n\nHuman: hi\n\nAssistant: yes\n\nHuman: more\n\nAssistant:"
HH = {"chosen": SAID + " good", "rejected": SAID + " bad"}
TLDR = {
    "info": {"id": "x", "post": "A post.", "title": "t"},
    "summaries": [{"text": " one", "policy": "m"}, {"text": " two"}],
    "choice": 1,
}
RANKED = {"prompt": "p", "responses": ["a", "b", "c"], "ranking": [2, 0, 1]}
VERDICT = {"prompt": "p", "response": "a", "label": 1}


def bare(comparisons):
    return [example[1:] for example in comparisons]


def test_pairs_are_read_as_they_stand(write):
    path = write([PAIR, PAIR | {"prompt": "q é"}])
    got = read_preferences(path)
    assert got.comparisons[1] == Comparison(f"{path}, line 2", "q é", "a", "b")
    assert len(got.comparisons) == 2 and got.verdicts == ()


def test_labels_are_verdicts(write):
    rows = [VERDICT, VERDICT | {"label": False}, VERDICT | {"label": 0.0, "response": "c"}]
    got = read_preferences(write(rows))
    assert bare(got.verdicts) == [("p", "a", True), ("p", "a", False), ("p", "c", False)]


def test_a_ranking_is_all_its_comparisons_best_first(write):
    got = read_preferences(write([RANKED]))
    assert bare(got.comparisons) == [("p", "c", "a"), ("p", "c", "b"), ("p", "a", "b")]


def test_a_transcript_is_cut_after_its_last_opening_of_a_reply(write):
    got = read_preferences(write([HH]))
    assert bare(got.comparisons) == [(SAID, " good", " bad")]


@pytest.mark.parametrize("choice", [0, 1])
def test_summaries_are_ordered_by_the_choice(write, choice):
    got = read_preferences(write([TLDR | {"choice": choice}]))
    texts = [" one", " two"]
    assert bare(got.comparisons) == [("A post.\n\nTL;DR:", texts[choice], texts[1 - choice])]


def without(row, key):
    return {name: value for name, value in row.items() if name != key}


BAD = [
    (without(PAIR, "rejected"), "key 'rejected' is missing"),
    (without(VERDICT, "label"), "key 'label' is missing"),
    (without(RANKED, "ranking"), "key 'ranking' is missing"),
    (TLDR | {"info": {"title": "t"}}, "key 'post' is missing"),
    (without(TLDR, "choice"), "key 'choice' is missing"),
    (PAIR | {"chosen": " \n"}, "key 'chosen' is empty"),
    (PAIR | {"prompt": ""}, "key 'prompt' is empty"),
    (PAIR | {"chosen": 5}, "key 'chosen' is int; accepted: text"),
    (PAIR | {"chosen": "b"}, "compares a response with itself"),
    (PAIR | {"chosen": "a\ud800"}, "half a surrogate"),
    (VERDICT | {"label": 2}, "key 'label' is 2; accepted: 0 or 1"),
    (VERDICT | {"label": 0.5}, "key 'label' is 0.5; accepted: 0 or 1"),
    (VERDICT | {"label": "1"}, "key 'label' is '1'; accepted: 0 or 1"),
    (RANKED | {"ranking": [0, 1]}, r"key 'ranking' is \[0, 1\]; accepted: 0 .. 2, each once"),
    (RANKED | {"ranking": [0, 1, 3]}, "key 'ranking'"),
    (RANKED | {"ranking": [0, True, 2]}, "key 'ranking'"),
    (RANKED | {"responses": ["a"], "ranking": [0]}, "key 'responses' has 1; accepted: two"),
    (RANKED | {"responses": ["a", "", "c"]}, r"'responses\[1\]' is empty"),
    (RANKED | {"responses": ["a", 3, "c"]}, "response 1 is int"),
    (RANKED | {"responses": ["a", "a", "c"]}, "compares a response with itself"),
    (HH | {"chosen": "no reply"}, "key 'chosen' has no"),
    (HH | {"chosen": SAID}, "key 'chosen' is empty"),
    (HH | {"rejected": "\n\nHuman: other\n\nAssistant: bad"}, "prompts of 'chosen' and 'rejected'"),
    (TLDR | {"choice": 2}, "key 'choice' is 2; accepted: 0 or 1"),
    (TLDR | {"summaries": [{"text": "a"}]}, "key 'summaries' has 1 entries; accepted: two"),
    ({"question": "x"}, "keys question fit no form"),
]


@pytest.mark.parametrize(("row", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_a_bad_row_is_refused_with_its_file_and_line(write, row, message):
    with pytest.raises(ValueError, match=f"data.jsonl, line 1: .*{message}"):
        read_preferences(write([row]))


@pytest.mark.parametrize(
    ("row", "message"), BAD[:-1], ids=[message[:40] for _, message in BAD[:-1]]
)
def test_the_line_is_counted(write, row, message):
    good = next(g for g in (PAIR, VERDICT, RANKED, HH, TLDR) if set(row) <= set(g))
    with pytest.raises(ValueError, match="data.jsonl, line 2: "):
        read_preferences(write([good, row]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "data.jsonl: empty"),
        (b'{"prompt": "\xff"}\n', "line 1: not UTF-8 at byte 13"),
        (json.dumps(PAIR).encode() + b"\n\n", "line 2: blank"),
        (b'{"prompt": ', "line 1: not a JSON object"),
        (b"[1]\n", "line 1: not a JSON object"),
        (b'{"label": NaN}\n', "line 1: not a JSON object: NaN"),
        (b'{"prompt": "a", "prompt": "b"}\n', "line 1: not a JSON object: key 'prompt' occurs"),
        (b"\xef\xbb\xbf" + json.dumps(PAIR).encode(), "line 1: not a JSON object"),
    ],
)
def test_files_that_are_no_lines_of_json_are_refused(write, content, message):
    with pytest.raises(ValueError, match=message):
        read_preferences(write(content))


def test_a_repeated_example_names_both_lines(write):
    path = write([PAIR, PAIR | {"chosen": "c"}, PAIR])
    with pytest.raises(ValueError, match=r"line 3: the same as .*data.jsonl, line 1"):
        read_preferences(path)


def test_the_form_of_the_first_line_holds_for_all(write):
    with pytest.raises(ValueError, match=r"line 2: key 'chosen' is missing"):
        read_preferences(write([PAIR, VERDICT]))


def test_unknown_forms_and_missing_files_are_refused(write, tmp_path):
    with pytest.raises(ValueError, match="did you mean 'paired'"):
        read_preferences(write([PAIR]), "pair")
    with pytest.raises(ValueError, match=r"none.jsonl: No such file"):
        read_preferences(tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match="Is a directory"):
        read_preferences(tmp_path)
