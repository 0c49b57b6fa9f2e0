"""Runs of a model of one number, without the libraries that real models need."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from rlkit import checkpoint
from rlkit.tuning.models import loading, optional, replacing_folder, trained
from rlkit.tuning.run import Length, Shown, Tuning, keep_until

LENGTH = Length(steps=6, record=1, save=2, look=1)
NAMES = {"flat": "weight", "nested": "['policy']['weight']"}  # of the number in a checkpoint


@dataclass(frozen=True)
class Doubling:
    rate: float = 2.0


class Number(Tuning):
    """Doubles a number, which starts at 1."""

    def __init__(self, out, form="flat", rate=2.0, breaks=None):
        super().__init__(Doubling(rate), out, 0, {"form": form}, None)
        self.nested, self.breaks = form == "nested", breaks
        one = {"weight": torch.ones(1, dtype=torch.float64)}
        self.restore({"policy": one} if self.nested else one)

    def update(self):
        if self.step == self.breaks:
            raise ZeroDivisionError
        after = {"weight": 2 * self.learned()["weight"]}
        self.state = {"policy": after} if self.nested else after
        return {"factor": 2.0}

    def learned(self):
        return self.state["policy"] if self.nested else self.state

    def show(self, look):
        return Shown({"weight": float(self.learned()["weight"])})

    def finish(self):
        (self.out / "result").write_text(str(float(self.learned()["weight"])))


def curves(folder):
    return [json.loads(line) for line in (folder / "curves.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("form", NAMES)
def test_a_run_broken_off_goes_on_from_its_last_checkpoint_to_the_same_end(form, tmp_path):
    with pytest.raises(ZeroDivisionError):
        Number(tmp_path, form, breaks=5).run(LENGTH)
    assert [row["step"] for row in curves(tmp_path)] == [0, 1, 2, 3, 4, 5]
    assert not (tmp_path / "result").exists()
    second = Number(tmp_path, form)
    assert second.step == 4
    assert second.run(LENGTH) == {"factor": 2.0, "weight": 64.0}
    rows = [{"step": k, "weight": 2.0**k, "factor": 2.0} for k in range(7)]
    assert curves(tmp_path) == [{"step": 0, "weight": 1.0}, *rows[1:]]
    assert (tmp_path / "result").read_text() == "64.0"
    tensors, _, step = checkpoint.load(tmp_path / "checkpoints", second.key)
    assert step == 6 and tensors == {NAMES[form]: torch.tensor([64.0], dtype=torch.float64)}


def test_a_finished_run_has_nothing_to_do_and_tells_its_last_record(tmp_path):
    first = Number(tmp_path).run(LENGTH)
    kept = (tmp_path / "curves.jsonl").read_text()
    again = Number(tmp_path)
    assert again.run(LENGTH) == first and again.step == 6
    assert (tmp_path / "curves.jsonl").read_text() == kept


def test_records_and_checkpoints_come_as_often_as_asked_and_at_the_end(tmp_path):
    run = Number(tmp_path)
    run.run(Length(steps=7, record=3, save=4, look=1))
    assert [row["step"] for row in curves(tmp_path)] == [0, 3, 6, 7]
    found = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert found == ["step_000000000004", "step_000000000007"]


def test_progress_is_told_after_each_step(tmp_path):
    told = []
    Number(tmp_path).run(LENGTH, lambda step, speed: told.append((step, speed > 0)))
    assert told == [(step, True) for step in range(1, 7)]


def test_a_folder_of_another_run_is_refused(tmp_path):
    Number(tmp_path).run(LENGTH)
    with pytest.raises(ValueError, match="holds a run with other settings"):
        Number(tmp_path, rate=3.0)


def test_a_learned_number_that_is_not_finite_is_refused(tmp_path):
    run = Number(tmp_path)
    run.state = {"weight": torch.tensor([1e308], dtype=torch.float64)}
    with pytest.raises(ValueError, match="weight is not finite after step 1; try a smaller rate"):
        run.advance()


def test_checkpoints_of_another_shape_or_type_do_not_fit(tmp_path):
    run = Number(tmp_path)
    for leaf in (torch.ones(2, dtype=torch.float64), torch.ones(1)):
        run.state = {"weight": leaf}
        run.save()
        with pytest.raises(ValueError, match=r"lacks weight of shape \[1\] torch.float64"):
            Number(tmp_path)


def test_lines_after_a_step_and_half_lines_are_dropped(tmp_path):
    path = tmp_path / "lines"
    path.write_text('{"step":0}\n{"step":1}\n{"step":1}\n{"step":2}\n{"step":')
    keep_until(path, 1)
    assert path.read_text() == '{"step":0}\n{"step":1}\n{"step":1}\n'
    keep_until(path, 0)  # a run without a checkpoint begins anew
    assert path.read_text() == ""


def broken(folder):
    folder.mkdir()
    raise ZeroDivisionError


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    place = tmp_path / "model"
    for text in ("old", "new"):
        with replacing_folder(place) as fresh:
            (fresh / "part").mkdir(parents=True)
            (fresh / "part" / text).write_text(text)
    with pytest.raises(ZeroDivisionError), replacing_folder(place) as fresh:
        broken(fresh)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert [path.name for path in (place / "part").iterdir()] == ["new"]


def test_a_folder_that_cannot_be_replaced_is_kept(tmp_path, monkeypatch):
    place = tmp_path / "model"
    place.mkdir()
    (place / "old").write_text("old")
    real = Path.replace

    def full(self, target):
        if ".tmp-" in self.name:
            raise OSError("No space left on device")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"), replacing_folder(place) as fresh:
        fresh.mkdir()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (place / "old").read_text() == "old"


def test_a_trained_copy_leaves_the_model_as_it_was():
    module = torch.nn.Linear(2, 1)
    before = module.weight.detach().clone()
    copied = trained(module, None, {"weight": torch.full((1, 1, 2), 7.0)})
    assert torch.equal(copied.weight, torch.full((1, 2), 7.0))
    assert torch.equal(copied.bias, module.bias) and torch.equal(module.weight, before)


def test_a_missing_library_is_named_with_the_extra_that_has_it():
    with pytest.raises(ValueError, match=r"^no_such is not installed; pip install 'rlkit-gym\[lm"):
        optional("no_such", "lm")
    assert optional("json", "lm") is json


def test_what_a_library_raises_becomes_one_line(tmp_path):
    with (
        pytest.raises(ValueError, match="place: not loaded as Net: a b$"),
        loading(tmp_path / "place", "not loaded as Net"),
    ):
        raise OSError("a\n  b")
