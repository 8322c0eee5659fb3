"""Fixtures of the editing tests."""

from __future__ import annotations

import pytest
import torch

from methods.editing.model import EditableModel
from tests.editing.tiny import KINDS, cached_editable


@pytest.fixture(params=KINDS)
def exact(request: pytest.FixtureRequest) -> EditableModel:
    """Every kind of model in float64, shared by all tests, which must leave it as it was."""
    return cached_editable(request.param, torch.float64)
