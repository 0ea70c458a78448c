"""What is said of an adapter: better or worse, on how many cases, and how sure that is."""

from __future__ import annotations

import pytest


@pytest.fixture
def verdict(slicer):
    """Make a verdict of pairs of Dice, base and adapter."""
    from SAHLoRATrainerLib.judgement import JudgedCase, Verdict

    def verdict(*pairs, p_value=None):
        cases = tuple(JudgedCase(f"case-{i}", 20.0, *pair, 18.0, 19.0) for i, pair in enumerate(pairs))
        defined = sum(None not in pair for pair in pairs)
        return Verdict(cases, defined, p_value)

    return verdict


def test_better_on_few_cases_is_said_to_be_unsure(verdict):
    said = verdict((0.5, 0.7), (0.6, 0.62), (0.4, 0.38)).sentence()

    assert said == (
        "The adapter is better on 2 of 3 held-out cases, mean Dice +0.07 (0.50 with the base, 0.57 with the"
        " adapter, n = 3); too few cases to be sure."
    )


def test_better_on_many_cases_is_told_with_its_p(verdict):
    said = verdict(*[(0.5, 0.6)] * 8, p_value=0.0078).sentence()

    assert "better on 8 of 8" in said
    assert "unlikely to be chance (Wilcoxon's p = 0.008, 8 patients)" in said


def test_difference_that_can_be_chance_is_called_so(verdict):
    assert "this can be chance" in verdict(*[(0.5, 0.6), (0.5, 0.45)] * 4, p_value=0.3).sentence()


@pytest.mark.parametrize("pairs", [[(0.5, 0.4), (0.6, 0.55), (0.4, 0.42)], [(0.5, 0.5)]])
def test_worse_is_said_as_plainly_as_better(verdict, pairs):
    made = verdict(*pairs)

    assert not made.isBetter
    assert made.sentence().startswith("Use the base: the adapter is worse on")


def test_cases_without_blood_are_left_out_and_nothing_is_said_without_others(verdict):
    assert "1 of 1 held-out cases" in verdict((0.5, 0.7), (None, None)).sentence()
    assert "nothing can be said" in verdict((None, None)).sentence()
