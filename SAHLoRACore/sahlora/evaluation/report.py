"""Results of an evaluation as files: tables, JSON, plots and one page.

They name cases as the manifest does, and hold no path and nothing of what DICOM says of a patient.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sahlora.cases.strata import NOTHING
from sahlora.evaluation import plots
from sahlora.evaluation.evaluate import (
    ALL,
    MEASURES,
    CaseResult,
    Evaluation,
    System,
    by_stratum,
    case_values,
    compare,
    detection,
)
from sahlora.evaluation.statistics import Agreement, Auroc
from sahlora.evaluation.wording import mean_and_n, number, p_value
from sahlora.report.page import bullets, caption, facts, figures, image, render, section
from sahlora.runtime.files import write_bytes, write_json, write_table

FORMAT, FORMAT_VERSION = "sahlora-evaluation", 1
FILES = (
    "cases.csv", "summary.csv", "evaluation.json", "dice.png", "volumes.png", "bland-altman.png",
    "evaluation.html",
)  # fmt: skip
"""Names of what `write_evaluation` writes."""

TITLES = {
    "dice": "Dice",
    "soft_dice": "Soft Dice",
    "hd95_mm": "95th-percentile Hausdorff distance, mm",
    "assd_mm": "Average surface distance, mm",
    "predicted_ml": "Predicted volume, mL",
    "annotated_ml": "Annotated volume, mL",
    "false_positive_ml": "False-positive volume, mL",
    "volume_error_ml": "Absolute error of volume, mL",
}


def write_evaluation(folder: Path, evaluation: Evaluation, settings: Mapping[str, str]) -> None:
    """Write tables, JSON, plots and page, the files of `FILES`, into a folder.

    Parameters
    ----------
    folder : Path
        Made if needed; earlier files of these names are replaced.
    evaluation : Evaluation
    settings : mapping of str
        What else the results should say about the run.

    Raises
    ------
    ResourceError
        ``unwritable`` or ``disk-full``.
    """
    pictures = {
        "dice.png": plots.dice_by_stratum(evaluation),
        "volumes.png": plots.volumes(evaluation),
        "bland-altman.png": plots.bland_altman(evaluation),
    }
    write_json(folder / "evaluation.json", _plain(evaluation, settings))  # first: it says whose folder it is
    write_table(folder / "cases.csv", _case_rows(evaluation))
    write_table(folder / "summary.csv", _summary_rows(evaluation))
    for name, picture in pictures.items():
        write_bytes(folder / name, picture)
    write_bytes(folder / "evaluation.html", _page(evaluation, settings, pictures).encode())


# ------------------------------------------------------------------------------------------ tables, JSON


def _case_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    return [
        {"model": system.name, **_described(result), **case_values(result)}
        for system in evaluation.systems
        for result in evaluation.results[system.name]
    ]


def _summary_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return one row for each model, stratum and measure."""
    return [
        {"model": system.name, "stratum": stratum, "measure": measure, **vars(summary)}
        for system in evaluation.systems
        for stratum, cohort in by_stratum(evaluation.results[system.name]).items()
        for measure, summary in cohort.measures.items()
    ]


def _plain(evaluation: Evaluation, settings: Mapping[str, str]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "note": "For research use only, not for diagnosis.",
        "settings": dict(settings),
        "patients": evaluation.patients,
        "failures": list(evaluation.failures),
        "models": [_plain_model(evaluation, system) for system in evaluation.systems],
        "comparison": _comparison(evaluation),
    }


def _plain_model(evaluation: Evaluation, system: System) -> dict[str, Any]:
    results = evaluation.results[system.name]
    return {
        "name": system.name,
        "facts": dict(system.facts),
        "threshold": system.threshold,
        "cases": [{**_described(result), **case_values(result)} for result in results],
        "strata": by_stratum(results),
        "slice_detection": detection(results),
    }


def _described(result: CaseResult) -> dict[str, str]:
    return {"case": result.name, "patient": result.patient, "stratum": result.stratum}


def _comparison(evaluation: Evaluation) -> dict[str, Any]:
    """Return the paired tests of first against second model; none for a single model."""
    if len(evaluation.systems) != 2:
        return {}
    first, second = (evaluation.results[system.name] for system in evaluation.systems)
    return compare(first, second)


# --------------------------------------------------------------------------------------------------- page


def _page(evaluation: Evaluation, settings: Mapping[str, str], pictures: Mapping[str, bytes]) -> str:
    names = [system.name for system in evaluation.systems]
    title = "Evaluation of " + " and ".join(names)
    summaries = {name: by_stratum(evaluation.results[name]) for name in names}
    sections = [
        section("Cases", facts(_counts(evaluation)) + _left_out(evaluation)),
        section("All cases", _measures(evaluation)),
        section(
            "Dice by annotated volume",
            image(pictures["dice.png"], "Dice of every case by stratum of annotated volume, with mean ± sd.")
            + figures(
                ("Stratum", *names),
                [
                    (stratum, *(mean_and_n(summaries[name][stratum].measures["dice"]) for name in names))
                    for stratum in summaries[names[0]]
                    if stratum != NOTHING
                ],
            ),
        ),
        section(
            "Agreement of volumes",
            image(pictures["volumes.png"], "Predicted over annotated volume with the line of identity.")
            + image(pictures["bland-altman.png"], "Bland–Altman plot of predicted and annotated volume.")
            + _agreement({name: summaries[name][ALL].volumes for name in names}),
        ),
        section("Slices against expert labels", _detection(evaluation)),
        section("Comparison", _tests(evaluation)),
        section("Every case", _every_case(evaluation)),
        *(section(f"Model: {system.name}", facts(system.facts)) for system in evaluation.systems),
        section("Settings", facts(settings)),
    ]
    return render(title, plots.COLORS[0], sections)


def _counts(evaluation: Evaluation) -> dict[str, str]:
    results = evaluation.results[evaluation.systems[0].name]
    empty = sum(result.score.annotated_ml == 0 for result in results)
    return {
        "Evaluated": f"{len(results)} cases of {evaluation.patients} patients",
        "Without annotated blood": f"{empty} cases: left out of Dice and distances",
        "Left out": f"{len(evaluation.failures)} cases that could not be evaluated",
    }


def _left_out(evaluation: Evaluation) -> str:
    return bullets(f"{failure.name}: {failure.code}" for failure in evaluation.failures)


def _measures(evaluation: Evaluation) -> str:
    """Return mean ± sd and n of every measure, and false positives where nothing is annotated."""
    cohorts = [by_stratum(evaluation.results[system.name])[ALL] for system in evaluation.systems]
    rows = [
        (TITLES[measure], *(mean_and_n(cohort.measures[measure]) for cohort in cohorts))
        for measure in cohorts[0].measures
    ]
    rows.append(
        (
            "False-positive volume where nothing is annotated, mL",
            *(mean_and_n(cohort.empty_false_positive_ml) for cohort in cohorts),
        )
    )
    return figures(("Mean ± sd", *(system.name for system in evaluation.systems)), rows)


def _agreement(agreements: Mapping[str, Agreement]) -> str:
    rows: list[tuple[str, list[str]]] = [
        ("Bias, mL", [number(a.bias, 2) for a in agreements.values()]),
        (
            "Limits of agreement, mL",
            [f"{number(a.lower, 2)} to {number(a.upper, 2)}" for a in agreements.values()],
        ),
        ("ICC(3,1), consistency", [number(a.icc_3_1) for a in agreements.values()]),
        ("ICC(2,1), absolute agreement", [number(a.icc_2_1) for a in agreements.values()]),
        ("Pearson r", [number(a.pearson_r) for a in agreements.values()]),
        ("n", [str(a.n) for a in agreements.values()]),
    ]
    return figures(("Volumes", *agreements), [(name, *values) for name, values in rows])


def _detection(evaluation: Evaluation) -> str:
    found = {s.name: detection(evaluation.results[s.name]) for s in evaluation.systems}
    return facts({name: _auroc_words(value) for name, value in found.items() if value is not None})


def _auroc_words(value: Auroc) -> str:
    return (
        f"AUROC {value.value:.3f}, {value.level:.0%} interval {number(value.lower)} to "
        f"{number(value.upper)} (bootstrap over {value.n_patients} patients; {value.n} slices, "
        f"{value.n_positive} with blood)"
    )


def _tests(evaluation: Evaluation) -> str:
    tests = _comparison(evaluation)
    if not tests:
        return ""
    first, second = (system.name for system in evaluation.systems)
    rows = [
        (TITLES[name], number(t.mean_difference), p_value(t.p_value), f"{t.n}", f"{t.n_equal}")
        for name in MEASURES
        for t in [tests[name]]
    ]
    columns = ("Measure", "Mean difference", "p", "n patients", "of them equal")
    return figures(columns, rows) + caption(
        f"{first} − {second}, patient by patient; Wilcoxon signed-rank test, two-sided, not corrected for "
        "the number of measures."
    )


def _every_case(evaluation: Evaluation) -> str:
    columns = ("Case", "Model", "Dice", "Soft Dice", "HD95, mm", "ASSD, mm", "Predicted, mL", "Annotated, mL")
    rows: Iterable[tuple[str, ...]] = (
        (
            result.name,
            system.name,
            number(result.score.dice),
            number(result.score.soft_dice),
            number(result.score.hd95_mm, 1),
            number(result.score.assd_mm, 1),
            number(result.score.predicted_ml, 1),
            number(result.score.annotated_ml, 1),
        )
        for results in zip(*(evaluation.results[s.name] for s in evaluation.systems), strict=True)
        for system, result in zip(evaluation.systems, results, strict=True)
    )
    return figures(columns, rows)
