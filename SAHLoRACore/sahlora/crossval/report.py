"""Results of a cross-validation as files: tables, JSON, plots and one page.

They name cases as the manifest does, and hold no path and nothing of what DICOM says of a patient.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sahlora.cases.strata import NOTHING, STRATA
from sahlora.crossval import plots
from sahlora.crossval.claims import LEVEL, MARGIN, Claim, examine, examine_controls
from sahlora.crossval.planning import Design
from sahlora.crossval.study import Outcome
from sahlora.crossval.summary import Comparison, compare_outcomes
from sahlora.evaluation.evaluate import ALL, CaseResult, case_values
from sahlora.evaluation.statistics import FEWEST_PAIRS, PairedTest, Summary, summarize
from sahlora.evaluation.wording import UNDEFINED, mean_and_n, number, p_value
from sahlora.models.base_model import Model
from sahlora.report.page import bullets, caption, facts, figures, image, render, section, sentences
from sahlora.runtime.files import write_bytes, write_json, write_table

FORMAT, FORMAT_VERSION = "sahlora-crossval", 1
PICTURES = {
    "dice-parameters.png": plots.dice_by_parameters,
    "dice-rank.png": plots.dice_by_rank,
    "dice-stratum.png": plots.dice_by_stratum,
}
FILES = ("results.csv", "summary.csv", "results.json", *PICTURES, "crossval.html")
"""Names of what `write_report` writes."""
COLOR = "#0072b2"
SUMMARIZED = ("dice", "soft_dice", "hd95_mm", "assd_mm")


def write_report(folder: Path, outcomes: Sequence[Outcome], design: Design, base: Model) -> None:
    """Write tables, JSON, plots and page, the files of `FILES`, into a folder.

    Parameters
    ----------
    folder : Path
    outcomes : sequence of Outcome
        Nothing is written if no job of any has finished.
    design : Design
    base : Model

    Raises
    ------
    ResourceError
        ``unwritable`` or ``disk-full``.
    """
    if not any(outcome.results for outcome in outcomes):
        return
    comparisons = compare_outcomes(outcomes)
    claims, controls = examine(outcomes), examine_controls(outcomes)
    plain = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "note": "For research use only, not for diagnosis.",
        "settings": _settings(design),
        "base": {"title": base.card.description.title, "sha256": base.sha256},
        "configurations": [_plain(one) for one in comparisons],
        "claims": [asdict(claim) for claim in claims],
        "controls": [asdict(claim) for claim in controls],
    }
    write_json(folder / "results.json", plain)  # first: it says whose folder it is
    write_table(folder / "results.csv", list(_case_rows(outcomes)))
    write_table(folder / "summary.csv", [_summary_row(one) for one in comparisons])
    pictures = {name: draw(comparisons) for name, draw in PICTURES.items()}
    for name, picture in pictures.items():
        write_bytes(folder / name, picture)
    page = _page(comparisons, claims, controls, pictures, design, base)
    write_bytes(folder / "crossval.html", page.encode())


def _settings(design: Design) -> dict[str, Any]:
    return {
        "folds": design.folds,
        "seed": design.seed,
        "views": list(design.views),
        "training": design.settings.to_dict(),
    }


# ------------------------------------------------------------------------------------------ tables, JSON


def _case_rows(outcomes: Iterable[Outcome]) -> Iterable[dict[str, Any]]:
    for outcome in outcomes:
        for job, result in outcome.finished:
            for case in result.cases:
                yield {
                    **asdict(outcome.configuration),
                    "parameters": result.parameters,
                    "fold": job.fold.number,
                    **_described(case),
                    **case_values(case),
                }


def _described(case: CaseResult) -> dict[str, str]:
    return {"case": case.name, "patient": case.patient, "stratum": case.stratum}


def _summary_row(one: Comparison) -> dict[str, Any]:
    """Return one row; strata and tests that are not there are empty cells."""
    outcome, results = one.outcome, one.outcome.results
    row: dict[str, Any] = {
        **asdict(outcome.configuration),
        "parameters": outcome.parameters,
        "learning_rate": outcome.learning_rate if outcome.configuration.trained else None,
        "jobs_finished": len(outcome.finished),
        "jobs_failed": len(outcome.failed),
        "cases": len(results),
        "patients": len({result.person for result in results}),
    }
    for name in SUMMARIZED:
        row |= _columns(name, summarize([case_values(result)[name] for result in results]))
    for stratum in STRATA:
        if stratum != NOTHING:
            row |= _columns(f"dice_{stratum.replace(' ', '_')}", summarize(_dice_in(results, stratum)))
    row |= _columns("volume_error_ml", summarize([result.volume_error_ml for result in results]))
    for name, test in (("none", one.against_none), ("standard", one.against_standard)):
        row |= {
            f"against_{name}_mean_difference": test.mean_difference if test else None,
            f"against_{name}_p": test.p_value if test else None,
            f"against_{name}_n_patients": test.n if test else None,
        }
    return row


def _columns(name: str, summary: Summary) -> dict[str, Any]:
    return {f"{name}_mean": summary.mean, f"{name}_sd": summary.sd, f"{name}_n": summary.n}


def _dice_in(results: Sequence[CaseResult], stratum: str) -> list[float]:
    return [result.score.dice for result in results if result.stratum == stratum]


def _plain(one: Comparison) -> dict[str, Any]:
    outcome = one.outcome
    return {
        "name": str(outcome.configuration),
        **asdict(outcome.configuration),
        "parameters": outcome.parameters,
        "learning_rate": outcome.learning_rate if outcome.configuration.trained else None,
        "jobs": [
            {
                "job": job.identity,
                "fold": job.fold.number,
                "seconds": result.seconds,
                "training": result.training,
                "failures": [asdict(failure) for failure in result.failures],
            }
            for job, result in outcome.finished
        ],
        "failed": [
            {"job": failed.job.identity, "fold": failed.job.fold.number, "code": failed.code,
             "message": failed.message, "hint": failed.hint}
            for failed in outcome.failed
        ],
        "strata": one.strata,
        "against_none": one.against_none,
        "against_standard": one.against_standard,
        "cases": [{**_described(case), **case_values(case)} for case in outcome.results],
    }  # fmt: skip


# --------------------------------------------------------------------------------------------------- page


def _page(
    comparisons: Sequence[Comparison],
    claims: Sequence[Claim],
    controls: Sequence[Claim],
    pictures: Mapping[str, bytes],
    design: Design,
    base: Model,
) -> str:
    found = [one for one in comparisons if one.strata]
    alt = (
        "Mean Dice over the number of trained parameters.",
        "Mean Dice over rank.",
        "Mean Dice ± sd by stratum of annotated volume.",
    )
    drawn = {name: image(pictures[name], words) for name, words in zip(PICTURES, alt, strict=True)}
    sections = [
        section("Cases and jobs", facts(_counts(comparisons, design)) + _failures(comparisons)),
        section(
            "Claims of the published study, and what was found here",
            _claims(claims)
            + caption(
                "Minoccheri et al., BMC Medical Imaging 26(1):58 (2026), doi 10.1186/s12880-025-02116-y, on "
                "other patients and another base. Supported: all tests point that way with p below "
                f"{LEVEL:g}. Not supported: at least one points the other way. Cannot be said: neither, or "
                f"fewer than {FEWEST_PAIRS} patients. On par: a mean loss of Dice of at most {MARGIN:g}."
            ),
        ),
        section("Controls", _controls(controls)),
        section("Dice of every configuration", _table(found) + _caption_of_tests()),
        section("Dice against trained parameters", drawn["dice-parameters.png"]),
        section("Dice by rank", drawn["dice-rank.png"]),
        section("Dice by annotated volume", drawn["dice-stratum.png"] + _strata(found)),
        section("Volumes", _volumes(found)),
        section("Settings", facts(_settings_in_words(design))),
        section("Base", facts(base.facts())),
    ]
    return render("Comparison of adapters", COLOR, sections)


def _counts(comparisons: Sequence[Comparison], design: Design) -> dict[str, str]:
    results = max((one.outcome.results for one in comparisons), key=len)
    jobs = [(len(one.outcome.finished), len(one.outcome.failed)) for one in comparisons]
    how = "the cases held out" if design.folds is None else f"{design.folds} folds by patient"
    finished, failed = (sum(numbers) for numbers in zip(*jobs, strict=True))
    empty = sum(result.score.annotated_ml == 0 for result in results)
    return {
        "Tested on": f"{how}: n = {len(results)} cases of {len({r.person for r in results})} patients",
        "Without annotated blood": f"{empty} cases: left out of Dice and distances",
        "Jobs": f"{finished} finished, {failed} failed",
    }


def _failures(comparisons: Sequence[Comparison]) -> str:
    return bullets(
        f"{one.outcome.configuration}, fold {failed.job.fold.number + 1}: {failed.code}. {failed.message}"
        for one in comparisons
        for failed in one.outcome.failed
    )


def _claims(claims: Sequence[Claim]) -> str:
    columns = ("Claim", "Published", "Here", "Found here")
    return sentences(columns, [(c.claim, c.published, c.verdict, c.found) for c in claims])


def _controls(controls: Sequence[Claim]) -> str:
    words = {"supported": "holds", "not supported": "does not hold"}
    rows = [(c.claim, words.get(c.verdict, c.verdict), c.found) for c in controls]
    return sentences(("Must hold", "Here", "Found here"), rows)


def _table(found: Sequence[Comparison]) -> str:
    rows = [
        (
            str(one.outcome.configuration),
            f"{one.outcome.parameters:,}",
            mean_and_n(one.strata[ALL].measures["dice"]),
            *_test(one.against_none),
            *_test(one.against_standard),
        )
        for one in found
    ]
    columns = ("Configuration", "Trained parameters", "Dice, mean ± sd (n cases)",
               "− none", "p (n patients)", "− standard", "p (n patients)")  # fmt: skip
    return figures(columns, rows)


def _caption_of_tests() -> str:
    return caption(
        "Differences of mean Dice to no fine-tuning and to standard fine-tuning of the same scope, patient "
        "by patient; Wilcoxon signed-rank test, two-sided, not corrected for the number of configurations."
    )


def _test(test: PairedTest | None) -> tuple[str, str]:
    if test is None:
        return UNDEFINED, UNDEFINED
    return f"{test.mean_difference:+.3f}".replace("-", "−"), f"{p_value(test.p_value)} (n = {test.n})"


def _strata(found: Sequence[Comparison]) -> str:
    strata = [name for name in STRATA if name != NOTHING and any(name in one.strata for one in found)]
    rows = [
        (
            str(one.outcome.configuration),
            *(mean_and_n(summarize(_dice_in(one.outcome.results, stratum))) for stratum in strata),
        )
        for one in found
    ]
    return figures(("Configuration", *strata), rows)


def _volumes(found: Sequence[Comparison]) -> str:
    rows = []
    for one in found:
        cohort = one.strata[ALL]
        error = summarize([result.volume_error_ml for result in one.outcome.results])
        volumes = cohort.volumes
        rows.append(
            (
                str(one.outcome.configuration),
                mean_and_n(error),
                f"{number(volumes.bias, 2)} ({number(volumes.lower, 2)} to {number(volumes.upper, 2)}; "
                f"n = {volumes.n})",
                f"{number(volumes.icc_2_1)} (n = {volumes.n})",
                mean_and_n(cohort.measures["hd95_mm"]),
            )
        )
    columns = (
        "Configuration",
        "Absolute error, mL",
        "Bias (limits of agreement), mL",
        "ICC(2,1)",
        "HD95, mm",
    )
    return figures(columns, rows)


def _settings_in_words(design: Design) -> dict[str, str]:
    training, rates = design.settings, design.rates
    default = training.learning_rate if rates.default is None else rates.default
    return {
        "folds": "none: cases held out" if design.folds is None else str(design.folds),
        "seed": str(design.seed),
        "views": ", ".join(design.views),
        "preset": training.preset,
        "epochs": f"{training.epochs}, the last one counts"
        if training.patience is None
        else f"at most {training.epochs}; a fifth of the training patients, not trained on, chooses which",
        "slices a step": str(training.batch_size),
        "learning rate": ", ".join(
            [f"{default:g}", *(f"{name} {rate:g}" for name, rate in rates.special.items())]
        ),
        "loss": training.loss,
        "augmentation": training.augmentation,
    }
