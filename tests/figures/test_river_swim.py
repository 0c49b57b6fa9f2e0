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
from rlkit.paper_figures import river_swim
from rlkit.results import Results

STEP = np.unique(np.geomspace(1, 20_000, 120).astype(int))


class MadeUp(SimpleNamespace):
    def results(self):
        return self.table


def curve(config):
    """Final regret and exponent in the pattern of the specification, 10-D.6 and 20-A.6."""
    agent, scale = config["agent"]["name"], config["agent"].get("scale")
    if config["env"]["horizon"] is None:
        table = {
            ("tsde", None): (56.0, 0.2),
            ("ucrl2", 0.3): (3161.0, 0.7),
            ("optimistic_q", 0.05): (4570.0, 0.8),
            ("uniform", None): (8560.0, 1.0),
        }
        return table.get((agent, scale), (8472.0, 1.0))
    table = {
        ("psrl", None): (59.0, 0.1),
        ("rlsvi", None): (140.0, 0.1),
        ("ucbvi", 0.02): (19.1, 0.05),
        ("ucbvi", 0.1): (90.0, 0.2),
        ("ucbvi", 1.0): (2900.0, 0.9),
        ("ucrl2", 0.01): (18.0, 0.1),
        ("q_learning_ucb", 0.0005): (1050.0, 0.5),
    }
    return table.get((agent, scale), (3354.0, 1.0))


@cache
def wanted():
    """The runs of the figure, and the experiment's own configuration."""
    return cells("river_swim"), flatten(compose("river_swim", memory=False).document())


def made_up(factor=lambda config: 1.0, bend=lambda config: 0.0):
    """Results for every run of the figure, 32 replicas each."""
    configs, base = wanted()
    made = []
    for config in configs:
        document = config.document()
        level, exponent = curve(document)
        noise = np.random.default_rng(0).normal(1.0, 0.02, 32)
        growth = (STEP / STEP[-1]) ** (exponent + bend(document))
        metrics = {"regret": np.outer(level * factor(document) * growth, np.abs(noise))}
        table = Results(config.key, STEP, np.arange(32), metrics)
        made.append(Cell(MadeUp(key=config.key, config=document, table=table)))
    return Data(made, base)


@pytest.fixture(scope="module")
def data():
    return made_up()


def test_every_claim_holds_on_results_in_the_pattern_of_the_specification(data):
    claims = river_swim.claims(data)
    assert not [claim.statement for claim in claims if not claim.passed]
    assert len({claim.name for claim in claims}) == len(claims)


def is_agent(name, scale=None):
    return lambda config: (
        config["agent"]["name"] == name
        and scale
        in (
            None,
            config["agent"].get("scale"),
        )
    )


@pytest.mark.parametrize(
    ("who", "factor", "lost"),
    [
        (is_agent("psrl"), 0.1, "order by episode"),
        (is_agent("ucbvi", 0.02), 10.0, "order by episode"),
        (is_agent("ucrl2", 1.0), 0.01, "UCRL2"),
        (is_agent("tsde"), 5.0, "TSDE"),
        (is_agent("ucrl2", 0.3), 2.0, "order on average"),
        (is_agent("optimistic_q", 0.05), 2.0, "order on average"),
        (is_agent("ucrl2", 1.0), 0.9, "UCRL2, c = 1 learns nothing"),
        (is_agent("optimistic_q", 1.0), 1.1, "optimistic Q, c = 1 learns nothing"),
    ],
)
def test_a_claim_fails_when_an_agent_does_otherwise(who, factor, lost):
    other = made_up(lambda config: factor if who(config) else 1.0)
    verdict = {claim.name: claim.passed for claim in river_swim.claims(other)}
    assert verdict[lost] is False


@pytest.mark.parametrize(
    ("who", "bend", "lost"),
    [
        (is_agent("rlsvi"), 1.0, "sublinear by episode"),
        (is_agent("optimistic_q", 0.05), 0.3, "sublinear on average"),
        (is_agent("uniform"), -0.1, "uniform by episode"),
        (is_agent("uniform"), 0.1, "uniform on average"),
    ],
)
def test_a_claim_on_an_exponent_fails_when_it_is_another(who, bend, lost):
    other = made_up(bend=lambda config: bend if who(config) else 0.0)
    verdict = {claim.name: claim.passed for claim in river_swim.claims(other)}
    assert verdict[lost] is False


def test_exponents_are_those_of_the_curves(data):
    cell = river_swim.UCBVI.cell(data, horizon=20)
    np.testing.assert_allclose(river_swim.exponents(cell), 0.9, atol=1e-9)


def test_regret_between_records_lies_on_a_straight_line(data):
    cell = river_swim.UNIFORM.cell(data, horizon=20)
    right = int(np.searchsorted(cell.step, 10_000))
    low, high = cell.step[right - 1 : right + 1]
    share = (10_000 - low) / (high - low)
    expected = (1 - share) * cell.metric()[right - 1] + share * cell.metric()[right]
    np.testing.assert_allclose(river_swim.after(river_swim.UNIFORM, data, 500), expected)


def test_always_left_costs_its_gain(data):
    assert 20_000 * river_swim.left_gap() == pytest.approx(8472.45, abs=0.01)


def test_the_figure_has_two_titled_panels_on_logarithmic_axes(data):
    look = {**mpl.rcParamsDefault, **drawing.STYLE, "backend": "agg"}
    with mpl.rc_context(look):
        figure = river_swim.plot(data)
        figure.canvas.draw()
    assert [ax.get_title("left")[:3] for ax in figure.axes] == ["(a)", "(b)"]
    assert all(ax.get_xscale() == ax.get_yscale() == "log" for ax in figure.axes)
    names = [text.get_text() for ax in figure.axes for text in ax.texts]
    assert (
        len(names) == len(river_swim.BY_EPISODE) + len(river_swim.ON_AVERAGE) + 2
    )  # key, always left
    mpl.pyplot.close(figure)


def test_the_caption_names_every_panel():
    caption = figures.caption_with(river_swim.CAPTION, [])
    assert all(f"({letter})" in caption for letter in "ab")
