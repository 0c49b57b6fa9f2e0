"""The figure finds its runs, draws them, and its claims fall with the numbers they rest on."""

from functools import cache
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pytest

from rlkit import drawing, figures
from rlkit.config import compose
from rlkit.experiments.runner import cells
from rlkit.figures import Cell, Data, flatten
from rlkit.paper_figures import deep_sea
from rlkit.results import Results


def final(config):
    """Regret that satisfies every claim, in proportion to the size of the sea."""
    agent, size = config["agent"], config["env"]["size"]
    level = {"ucbvi": 24.0, "rlsvi": 49.0, "psrl": 168.0, "q_learning_ucb": 348.0}
    value = level.get(agent["name"], 395.0)
    if agent["name"] == "psrl" and agent["alpha"] == 1.0:
        value = 397.0
    if agent["name"] == "ucbvi":
        value *= 1 + agent["scale"]
    return value * (size / 10) ** 2


@cache
def wanted():
    return [(c.key, c.document()) for c in cells("deep_sea")]


def made_up(factor=lambda config: 1.0):
    found = []
    for key, document in wanted():
        noise = np.random.default_rng(0).normal(1.0, 0.01, 32)
        curve = np.outer([0.1, 0.6, 1.0], final(document) * factor(document) * noise)
        table = Results(key, np.array([10, 1000, 4000]), np.arange(32), {"regret": curve})
        run = SimpleNamespace(key=key, config=document, results=lambda table=table: table)
        found.append(Cell(run))
    return Data(found, flatten(compose("deep_sea", memory=False).document()))


def verdict(data):
    return {claim.name: claim.passed for claim in deep_sea.claims(data)}


def test_every_claim_holds_on_results_as_specified():
    claims = deep_sea.claims(made_up())
    assert all(claim.passed for claim in claims) and len({c.name for c in claims}) == len(claims)
    assert all(claim.replicas == 32 and claim.statement for claim in claims)


@pytest.mark.parametrize(
    ("agent", "noise", "factor", "lost"),
    [
        ("psrl", 0.0, 1.6, "deep exploration"),
        ("psrl", 0.0, 0.9, "flat prior"),
        ("q_learning", 0.0, 0.9, "dithering"),
        ("ucbvi", 0.1, 2.5, "order"),
        ("ucbvi", 0.1, 2.5, "order, tuned bonus"),
        ("psrl", 0.1, 0.2, "order"),
        ("rlsvi", 0.1, 0.4, "order"),
        ("q_learning", 0.1, 0.4, "order"),
    ],
)
def test_a_claim_fails_when_an_agent_does_otherwise(agent, noise, factor, lost):
    def change(config):
        hit = config["agent"]["name"] == agent and config["env"]["noise"] == noise
        return factor if hit else 1.0

    assert verdict(made_up(change))[lost] is False


def test_the_figure_has_four_titled_panels():
    with mpl.rc_context({**mpl.rcParamsDefault, **drawing.STYLE, "backend": "agg"}):
        figure = deep_sea.plot(made_up())
        figure.canvas.draw()
    assert [ax.get_title("left")[:3] for ax in figure.axes] == ["(a)", "(b)", "(c)", "(d)"]
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in figure.axes)
    caption = figures.caption_with(deep_sea.CAPTION, [])
    assert all(f"({letter})" in caption for letter in "abcd")
    mpl.pyplot.close(figure)
