"""The threshold any model must beat: it works, and the phantom is hard for it."""

from __future__ import annotations

import numpy as np
import pytest

from sahlora.evaluation.baseline import brain_threshold, find_brain
from sahlora.simulation.head import SITES, HeadPhantom, simulate_head


def ball_head() -> tuple[np.ndarray, np.ndarray]:
    """Return HU of a skull ball with brain and a clot, and the clot."""
    z, y, x = np.meshgrid(*(np.arange(n) - n / 2 for n in (20, 120, 120)), indexing="ij")
    radius = np.hypot(y, x)
    hu = np.where(radius < 50, 32, np.where(radius < 56, 1000, -1000)).astype(np.int16)
    clot = (np.abs(z) < 4) & (np.hypot(y - 10, x + 12) < 8)
    hu[clot] = 65
    return hu, clot


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_clot_in_a_plain_head_is_found() -> None:
    hu, clot = ball_head()
    assert dice(brain_threshold(hu, (5.0, 1.0, 1.0)), clot) > 0.95


def test_brain_is_the_inside_of_the_skull_less_a_margin() -> None:
    hu, _ = ball_head()
    brain = find_brain(hu, (5.0, 1.0, 1.0))
    truth = (hu > 0) & (hu < 100)
    assert not (brain & ~truth).any()
    assert brain.sum() / truth.sum() > 0.85


def test_window_limits_what_is_found() -> None:
    hu, _ = ball_head()
    assert not brain_threshold(hu, (5.0, 1.0, 1.0), low=70, high=90).any()


def test_air_has_no_blood() -> None:
    assert not brain_threshold(np.full((3, 40, 40), -1000, np.int16), (5.0, 1.0, 1.0)).any()


@pytest.mark.proof
def test_phantom_is_neither_trivial_nor_hopeless_for_the_threshold() -> None:
    found = []
    for seed, volume in zip(range(1, 9), (20, 40, 80, 10) * 2, strict=True):
        spacing = (5.0, 0.9, 0.9)
        head = simulate_head(HeadPhantom(seed, volume, list(SITES)[seed % 5], spacing=spacing))
        found.append(dice(brain_threshold(head.hu, spacing), head.blood > 0))
    assert 0.2 <= np.mean(found) <= 0.6
