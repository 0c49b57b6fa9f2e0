import warnings

import pytest
import torch


@pytest.fixture(scope="session")
def warm_compiler():
    """Import the compiler, whose own warnings `pytest.warns` would turn into errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.compile(lambda x: x + 1)(torch.zeros(8))
