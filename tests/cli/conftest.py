"""Programs are built quickly for every test of the command line."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def build_quickly(quickly_built_programs):
    """For every test here."""
