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
def complaints(application):
    """What VTK and MRML complained about; `take` what a test expects, the rest fails it."""
    from harness.complaints import Complaints

    complaints = Complaints()
    yield complaints
    complaints.close()
    left = complaints.take()
    assert not left, "Slicer's error log would show:\n" + "\n".join(left)


@pytest.fixture
def slicer(application, complaints):
    """The package ``slicer`` with an empty scene; any error or warning of VTK fails the test."""
    application.mrmlScene.Clear(0)
    yield application
    application.mrmlScene.Clear(0)


@pytest.fixture
def plot_view(slicer):
    """A plot view that shows what is shown in the layout, and draws as Slicer's does."""
    from harness.plotview import PlotView

    view = PlotView(slicer.mrmlScene)
    yield view
    view.close()
