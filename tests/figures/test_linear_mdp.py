"""The figure finds its runs, draws them, and its claims fall with the exponents they rest on."""

from functools import cache
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pytest

from rlkit import drawing, figures
from rlkit.config import compose
from rlkit.experiments.runner import cells
from rlkit.figures import Cell, Data, flatten
from rlkit.paper_figures import linear_mdp
from rlkit.results import Results

STEP = np.unique(np.geomspace(1, 25_000, 100).astype(int))
GROWTH = {"lsvi_ucb": 0.6, "lsvi_phe": 0.5, "ucbvi": 0.7, "rlsvi": 0.7, "uniform": 1.0}


@cache
def wanted():
    return [(c.key, c.document()) for c in cells("linear_mdp")]


def made_up(bend=lambda agent: 0.0):
    found = []
    for key, document in wanted():
        agent = document["agent"]["name"]
        level = np.random.default_rng(0).normal(1000, 20, 32)
        curve = np.outer((STEP / STEP[-1]) ** (GROWTH[agent] + bend(agent)), level)
        table = Results(key, STEP, np.arange(32), {"regret": curve})
        run = SimpleNamespace(key=key, config=document, results=lambda table=table: table)
        found.append(Cell(run))
    return Data(found, flatten(compose("linear_mdp", memory=False).document()))


def test_every_claim_holds_on_results_as_specified():
    claims = linear_mdp.claims(made_up())
    assert all(claim.passed for claim in claims) and len({c.name for c in claims}) == 3
    assert all(claim.replicas == 32 and claim.statement for claim in claims)


@pytest.mark.parametrize(
    ("agent", "bend", "lost"),
    [
        ("lsvi_ucb", 0.21, "LSVI-UCB"),
        ("lsvi_phe", 0.31, "LSVI-PHE"),
        ("uniform", 0.021, "uniform"),
        ("uniform", -0.021, "uniform"),
    ],
)
def test_a_claim_falls_when_its_exponent_is_off(agent, bend, lost):
    claims = linear_mdp.claims(made_up(lambda name: bend * (name == agent)))
    assert {claim.name for claim in claims if not claim.passed} == {lost}


def test_the_figure_is_drawn_from_every_run(tmp_path):
    with mpl.rc_context(drawing.STYLE):
        figure = linear_mdp.plot(made_up())
        figures.save(figure, tmp_path, "linear_mdp")
    left, right = figure.axes
    assert (tmp_path / "linear_mdp.png").stat().st_size > 10_000
    assert {line.get_color() for line in left.lines} == {
        drawing.PALETTE[c] for c in ("blue", "vermilion", "green", "orange", "black")
    }
    assert "LSVI-UCB  0.60" in {text.get_text() for text in left.texts}
    assert list(right.get_xticks()) == list(linear_mdp.STATES)
    used = {id(cell) for cell in made_up().cells}
    assert len(used) == 11
