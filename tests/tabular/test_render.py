"""Pictures of grids: where the agent is, in text and in pixels."""

import gymnasium
import numpy as np
import pytest

from rlkit.adapters.render import AGENT, FENCE, RIDER, TARGET, TILES, picture, text
from rlkit.adapters.single import SingleEnv
from rlkit.envs.bandits.bernoulli import BernoulliBandit
from rlkit.envs.tabular.deep_sea import DeepSea
from rlkit.envs.tabular.gridworld import GridWorld
from rlkit.envs.tabular.taxi import Taxi
from rlkit.grids import Scene

PICTURED = [
    "Bifurcation-v0", "DeepSea-v0", "FrozenLake-v0", "GridWorld-v0", "RiverSwim-v0",
    "StochasticChain-v0", "Taxi-v0",
]  # fmt: skip


def cell_of(image, row, column, cells):
    """Pixels of a cell in a picture that is `cells` wide."""
    side = image.shape[1] // cells
    return image[row * side : (row + 1) * side, column * side : (column + 1) * side]


def colours(pixels):
    return {tuple(colour) for colour in pixels.reshape(-1, 3).tolist()}


def test_text_shows_tiles_agent_fences_and_caption():
    scene = Scene(("S.X", "..G"), agent=(1, 1), fences=((0, 0),), caption="two rows")
    assert text(scene) == " S | .   X\n .  [.]  G\ntwo rows\n"


def test_pixels_show_each_tile_in_its_colour_and_the_agent_in_the_middle_of_its_own():
    image = picture(Scene(("S.X", "..G"), agent=(1, 1)))
    assert image.shape == (96, 144, 3) and image.dtype == np.uint8
    for row, marks in enumerate(("S.X", "..G")):
        for column, mark in enumerate(marks):
            tile = cell_of(image, row, column, 3)
            assert tuple(tile[2, 2]) == TILES[mark]
            middle = AGENT if (row, column) == (1, 1) else TILES[mark]
            assert tuple(tile[23, 23]) == middle
            assert (AGENT in colours(tile)) == ((row, column) == (1, 1))
    disc = (cell_of(image, 1, 1, 3) == AGENT).all(-1)
    assert disc.sum() == pytest.approx(np.pi * (0.34 * 48) ** 2, rel=0.03)
    assert (disc[:47, :47] == disc[:47, :47][::-1]).all() and (disc == disc.T).all()


def test_rider_target_and_fence_are_drawn_where_they_are():
    image = picture(Scene(("...", "..."), (0, 0), rider=(0, 0), target=(1, 2), fences=((1, 0),)))
    assert {AGENT, RIDER} <= colours(cell_of(image, 0, 0, 3))
    assert tuple(cell_of(image, 0, 0, 3)[23, 23]) == RIDER
    framed = cell_of(image, 1, 2, 3)
    assert TARGET in colours(framed) and tuple(framed[23, 23]) == TILES["."]
    assert FENCE in colours(cell_of(image, 1, 0, 3)) and FENCE in colours(cell_of(image, 1, 1, 3))
    assert FENCE not in colours(image[:48]) and TARGET not in colours(image[:48])


@pytest.mark.parametrize("cells", [1, 60, 511, 700])
def test_pictures_of_large_grids_stay_small_and_show_the_agent(cells):
    image = picture(Scene(("." * cells,), agent=(0, cells - 1), target=(0, 0)))
    assert max(image.shape) <= max(512, cells)
    assert AGENT in colours(cell_of(image, 0, cells - 1, cells))


def test_the_picture_follows_the_agent_and_shows_the_end_of_the_episode():
    env = SingleEnv(GridWorld(layout="S.G"), render_mode="ansi")
    assert env.render() is None
    env.reset(seed=1)
    frames = [env.render()]
    for move in (1, 3, 1, 1):
        *_, terminated, _, _ = env.step(move)
        frames.append(env.render())
    assert terminated
    at = {0: "[S]  .   G\n", 1: " S  [.]  G\n", 2: " S   .  [G]\n"}
    assert frames == [at[place] for place in (0, 1, 0, 1, 2)]
    env.reset()
    assert env.render() == frames[0]


def test_the_diver_is_gone_after_the_last_row():
    env = SingleEnv(DeepSea(size=2), render_mode="ansi")
    env.reset(seed=1)
    frames = [env.render()]
    for _ in range(2):
        env.step(1)
        frames.append(env.render())
    assert frames == ["[S]  X\n .   G\n", " S   X\n .  [G]\n", " S   X\n .   G\n"]


def test_the_taxi_picture_says_where_the_passenger_is_and_where_he_goes():
    env = SingleEnv(Taxi(), render_mode="ansi")
    observation, _ = env.reset(seed=3)
    place, rest = divmod(observation, 20)
    passenger, target = divmod(rest, 4)
    told = env.render().splitlines()
    names = ["R", "G", "Y", "B", "the taxi"]
    assert told[5] == f"passenger: {names[passenger]}, destination: {names[target]}"
    row, column = divmod(place, 5)
    assert told[row][4 * column] == "[" and "".join(told[:5]).count("[") == 1


@pytest.mark.parametrize("name", PICTURED)
def test_gymnasium_makes_pictures_of_every_grid(name):

    for mode, kind in (("ansi", str), ("rgb_array", np.ndarray)):
        env = gymnasium.make(f"rlkit/{name}", render_mode=mode)
        env.reset(seed=1)
        first = env.render()
        env.step(1)
        assert isinstance(first, kind) and isinstance(env.render(), kind)
        env.close()


def test_problems_without_a_scene_still_show_their_actions():
    env = SingleEnv(BernoulliBandit(), render_mode="ansi")
    env.reset(seed=1)
    env.step(0)
    assert env.render().startswith("action    taken       mean")


def test_without_a_mode_there_is_no_picture():
    env = SingleEnv(GridWorld())
    env.reset(seed=1)
    assert env.render() is None
