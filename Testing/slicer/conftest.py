"""Fixtures of the tests that run the modules in the harness."""

from __future__ import annotations

import harness
import pytest


@pytest.fixture(scope="session")
def application():
    """The package ``slicer`` with scene, stand-ins and all three modules loaded."""
    reason = harness.unavailable()
    if reason:
        pytest.skip(reason)
    from harness.application import MODULES, load_module, start

    slicer = start()
    for name in MODULES:
        load_module(name)
    return slicer


@pytest.fixture
def slicer(application):
    """The package ``slicer`` with an empty scene."""
    application.mrmlScene.Clear(0)
    yield application
    application.mrmlScene.Clear(0)
