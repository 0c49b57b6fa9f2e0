"""The traces figure on made-up results: which runs it asks for, what it draws, what it claims."""

from functools import cache
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pytest
from omegaconf import OmegaConf

from rlkit import drawing, figures
from rlkit.config import compose
from rlkit.figures import Cell, Data, flatten
from rlkit.paper_figures import rbis
from rlkit.results import Results

LAMBDAS = [k / 10 for k in range(11)]
TRUNCATED, RECURSIVE = "truncated_importance_sampling", "recursive_retrace"


@cache
def experiment():
    """The experiment's file, as it is written."""
    path = Path(rbis.__file__).parents[1] / "experiments/conf/experiment/rbis.yaml"
    return OmegaConf.to_container(OmegaConf.load(path))


@cache
def panels():
    """Cells of the experiment, without composing each: `[(grid, rule, lambda, rest)]`."""
    found = []
    for panel in experiment()["panels"].values():
        for values in product(*panel.values()):
            cell = dict(zip(panel, values, strict=True))
            place = cell.pop("env.grid"), cell.pop("agent.rule"), cell.pop("agent.lambda_")
            found.append((*place, cell))
    return found


def test_every_rule_runs_once_at_every_lambda_on_every_grid():
    wanted = set(product(rbis.GRIDS, rbis.LOOK, LAMBDAS))
    assert len(panels()) == len(wanted) == 176
    assert {cell[:3] for cell in panels()} == wanted


def test_step_sizes_are_the_published_best():
    alpha = {cell[:3]: cell[3].get("agent.alpha", 0.9) for cell in panels()}
    low = {key for key, value in alpha.items() if value == 0.7}
    expected = {(g, TRUNCATED, x) for g in (1, 2, 3) for x in (0.8, 0.9)}
    expected |= {(g, r, 1.0) for g in (1, 2, 3) for r in (RECURSIVE, "rbis")}
    expected |= {(3, "retrace", 1.0), (3, RECURSIVE, 0.9), (3, "rbis", 0.9)}
    expected |= {(4, r, x) for r in rbis.LOOK for x in (0.8, 0.9, 1.0)}
    assert low == expected
    lowest = {key for key, value in alpha.items() if value == 0.5}
    assert lowest == {(g, TRUNCATED, 1.0) for g in (1, 2, 3)}
    assert set(alpha.values()) == {0.5, 0.7, 0.9}


def test_sizes_are_those_of_the_specification():
    for grid, _, _, rest in panels():
        assert rest.get("steps", 3000) == (5000 if grid == 2 else 3000)
        assert rest.get("agent.warmup_episodes", 5) == (10 if grid == 2 else 5)
        assert rest.get("replicas", 400) == rest.get("group", 400) == (1000 if grid == 1 else 400)


class MadeUp(SimpleNamespace):
    def results(self):
        return self.table


def level(grid, rule, lambda_):
    """Mean area in the pattern of the paper: RBIS ahead in the middle, Retrace at the end."""
    if lambda_ == 0:
        return 1200.0
    base = 1250 + 60 * lambda_ * (1.2 - lambda_)
    if rule == "rbis":
        return base + 60 * (1 - lambda_)
    if rule == TRUNCATED:
        return base - 10 - 80 * lambda_
    return base + (20 if rule == "retrace" and lambda_ > 0.75 else -15 * (1 - lambda_))


def made_up(change=lambda grid, rule, lambda_: 0.0, lambdas=LAMBDAS):
    """Results of 64 replicas for every run of the figure."""
    base = compose("rbis", memory=False).document()
    made = []
    for grid, rule, lambda_ in product(rbis.GRIDS, rbis.LOOK, lambdas):
        agent = {**base["agent"], "rule": rule, "lambda_": lambda_}
        document = {**base, "env": {**base["env"], "grid": grid}, "agent": agent}
        luck = np.random.default_rng(0).normal(0, 100, 64)
        own = np.random.default_rng([1, len(made)]).normal(0, 2, 64)
        own = own * (lambda_ not in (0.0, 1.0))
        mean = level(grid, rule, lambda_) + change(grid, rule, lambda_)
        curve = np.outer([0.1, 1.0], mean + luck + own)
        table = Results("k", np.array([1, 3000]), np.arange(64), {"auc": curve, "reward": curve})
        made.append(Cell(MadeUp(key=f"{grid}{rule}{lambda_}", config=document, table=table)))
    return Data(made, flatten(base))


@pytest.fixture(scope="module")
def data():
    return made_up()


def verdicts(data):
    return {claim.name: claim.passed for claim in rbis.claims(data)}


def test_every_claim_holds_on_results_in_the_pattern_of_the_paper(data):
    assert [claim.statement for claim in rbis.claims(data) if not claim.passed] == []
    assert len(verdicts(data)) == len(rbis.claims(data)) == 6


@pytest.mark.parametrize(
    ("name", "grid", "rule", "lambda_", "shift"),
    [
        ("grid 2", 2, RECURSIVE, 0.6, 6.0),  # leaves a gain of 24, not of 25
        ("grid 1, lambda .6", 1, RECURSIVE, 0.6, 40.0),
        ("grid 1, lambda .5", 1, "retrace", 0.5, 45.0),
        ("best over lambda", 1, "retrace", 0.9, 60.0),
        ("truncated IS", 4, TRUNCATED, 0.8, 200.0),
        ("identity", 3, RECURSIVE, 1.0, 1e-9),
    ],
)
def test_a_claim_fails_when_one_run_says_otherwise(name, grid, rule, lambda_, shift):
    shifted = made_up(lambda *place: shift if place == (grid, rule, lambda_) else 0.0)
    assert {key for key, passed in verdicts(shifted).items() if not passed} == {name}


def test_the_figure_shades_where_rbis_does_not_win(data):
    look = {**mpl.rcParamsDefault, **drawing.STYLE, "backend": "agg"}
    with mpl.rc_context(look):
        figure = rbis.plot(data)
        figure.canvas.draw()
    gains = figure.axes[8:]
    assert [ax.get_title("left")[:3] for ax in figure.axes[:4]] == ["(a)", "(b)", "(c)", "(d)"]
    assert all(ax.get_xlabel() for ax in gains)
    for ax in gains:
        shades = {
            round(patch.get_x() + patch.get_width() / 2, 1): patch.get_facecolor()[0]
            for patch in ax.patches
        }
        assert set(shades) == {0.0, 0.8, 0.9, 1.0}
        assert shades[0.0] > shades[0.9] == shades[1.0]
    mpl.pyplot.close(figure)


def test_the_quick_size_has_one_run_of_every_rule_on_every_grid():
    quick = experiment()["quick"]
    assert quick["agent"] == {"lambda_": 0.6, "alpha": 0.9}
    assert quick["steps"] <= 256 and quick["replicas"] == quick["group"] <= 8
    small = made_up(lambdas=[0.6])
    assert len(small.cells) == 16
    with mpl.rc_context({"backend": "agg"}):
        mpl.pyplot.close(rbis.plot(small))
    assert len(rbis.claims(small)) == 6


def test_the_caption_says_what_is_drawn():
    caption = figures.caption_with(rbis.CAPTION, [])
    for word in ("Top", "Middle", "Bottom", "Shaded", "95 %"):
        assert word in caption
