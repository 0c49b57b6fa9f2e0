"""The figure's lookups, drawing and claims, on made-up results for every run it asks for."""

from functools import cache
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pytest

from rlkit import drawing, figures
from rlkit.config import compose
from rlkit.experiments.runner import cells
from rlkit.figures import Cell, Data, flatten
from rlkit.paper_figures import causal_psrl
from rlkit.results import Results

N, STEP = 6, np.array([1, 10, 20, 30, 40, 60])


class MadeUp(SimpleNamespace):
    def results(self):
        return self.table


def regret(config):
    """Final mean regret in the pattern of the paper."""
    env, agent = config["env"], config["agent"]["name"]
    if env["name"] == "FactoredTaxi-v0":
        return {"c_psrl": 80.0, "f_psrl": 180.0, "psrl": 190.0}[agent]
    if agent == "psrl":
        return 200.0
    return 20.0 if agent == "f_psrl" else 24.0 - env["known_parents"]


@cache
def wanted():
    """The runs of the figure at its quick size, and the experiment's own configuration."""
    base = compose("causal_psrl", [f"replicas={N}", f"group={N}", "steps=60"], memory=False)
    return cells("causal_psrl", quick=True), flatten(base.document())


def made_up(factor=lambda config: 1.0):
    """Results for every run of the figure, at its quick size."""
    configs, base = wanted()
    made = []
    for config in configs:
        document = config.document()
        noise = np.random.default_rng(0).normal(1.0, 0.02, N)
        level = regret(document) * factor(document) * np.abs(noise)
        error = 1.5 if document["agent"]["name"] == "psrl" else 0.2
        metrics = {
            "regret": np.outer(STEP / 60, level),
            "model_error": np.outer(2 - STEP / 60, error * noise),
            "episodes": np.outer(np.ceil(STEP / 15), np.ones(N)),
        }
        table = Results(config.key, STEP, np.arange(N), metrics)
        made.append(Cell(MadeUp(key=config.key, config=document, table=table)))
    return Data(made, base)


@pytest.fixture(scope="module")
def data():
    return made_up()


def test_every_claim_holds_on_results_in_the_pattern_of_the_paper(data):
    failed = [claim.statement for claim in causal_psrl.claims(data) if not claim.passed]
    assert not failed


def test_claims_have_names_of_their_own_and_words(data):
    claims = causal_psrl.claims(data)
    assert len({claim.name for claim in claims}) == len(claims) == 5
    assert all(claim.statement and claim.replicas == N for claim in claims)


def worse(agent, factor, **fields):
    def by(config):
        hit = config["agent"]["name"] == agent
        hit &= all(config["env"].get(k) == v for k, v in fields.items())
        return factor if hit else 1.0

    return by


@pytest.mark.parametrize(
    ("factor", "lost"),
    [
        (worse("f_psrl", 0.5), {"near F-PSRL"}),
        (worse("psrl", 0.3), {"far below PSRL", "taxi"}),
        (worse("c_psrl", 2.0, name="FactoredTaxi-v0"), {"taxi"}),
        (worse("c_psrl", 1.5, parents=4, known_parents=4), {"known edges"}),
    ],
)
def test_claims_fail_when_an_agent_does_worse(factor, lost):
    assert {c.name for c in causal_psrl.claims(made_up(factor)) if not c.passed} == lost


def test_a_model_that_is_no_better_loses_its_claim():
    spoilt = made_up()
    for cell in spoilt.cells:
        if cell.run.config["agent"]["name"] == "f_psrl":
            cell.results.metrics["model_error"][:] = 1.6
    verdict = {claim.name: claim.passed for claim in causal_psrl.claims(spoilt)}
    assert verdict == {**dict.fromkeys(verdict, True), "model error": False}


def test_regret_is_read_at_the_end_of_episodes_and_interpolated_between():
    begun = np.array([1.0, 1.0, 2.0, 2.0, 5.0])
    paid = np.array([1.0, 3.0, 4.0, 7.0, 19.0])
    found = causal_psrl.at_last(np.arange(1.0, 6.0), begun, paid)
    np.testing.assert_allclose(found, [3, 7, 11, 15, 19])


def test_the_taxi_is_compared_over_episodes_that_all_have_begun(data):
    cells = [causal_psrl.taxi_cell(data, curve) for curve in causal_psrl.TAXI]
    episode, curves = causal_psrl.by_episode(cells)
    np.testing.assert_array_equal(episode, [1, 2, 3, 4])
    assert all(values.shape == (4, N) for values in curves)
    np.testing.assert_allclose(curves[0][-1], cells[0].final())


def test_the_figure_has_four_titled_panels(data):
    look = {**mpl.rcParamsDefault, **drawing.STYLE, "backend": "agg"}
    with mpl.rc_context(look):
        figure = causal_psrl.plot(data)
        figure.canvas.draw()
    assert [ax.get_title("left")[:3] for ax in figure.axes] == [f"({c})" for c in "abcd"]
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in figure.axes)
    mpl.pyplot.close(figure)


def test_the_caption_names_every_panel():
    caption = figures.caption_with(causal_psrl.CAPTION, [])
    assert all(f"({letter})" in caption for letter in "abcd")
