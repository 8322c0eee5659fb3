"""Fixtures of the patch tests."""

from __future__ import annotations

import pytest

from tests.editing.patches.world import FAMILIES, World, world


@pytest.fixture(params=FAMILIES)
def small(request: pytest.FixtureRequest) -> World:
    """Both kinds of model, shared by all tests, which must leave them as they were."""
    return world(request.param)
