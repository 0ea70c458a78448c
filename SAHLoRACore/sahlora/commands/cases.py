"""Check annotated cases and divide them into folds.

MANIFEST is a CSV or JSON file that lists the cases, or a folder with one subfolder a case that holds ct.* and
label.*; see Docs/cases.md. Checking reads every image and label, names what is wrong or doubtful and how to
mend it, and ends with status 3 if there is any error. One case that can't be read does not stop the others.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sahlora.progress import Progress

if TYPE_CHECKING:
    from sahlora.case_checks import CheckedCase
    from sahlora.errors import InputError

SUMMARY = "check annotated cases, divide them into folds"
EXAMPLE = "sahlora cases check cases.csv"
ACTIONS = {
    "check": "check images and labels of all cases and say what to mend",
    "folds": "divide the patients into folds that are alike in annotated volume",
}


def configure(action: str, parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of one action."""
    parser.add_argument("manifest", type=Path, metavar="MANIFEST", help="CSV, JSON or folder of cases")
    if action == "check":
        parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    else:
        parser.add_argument(
            "-o", "--output", type=Path, required=True, metavar="FOLDS.csv", help="table to write"
        )
        parser.add_argument("--folds", type=int, default=3, metavar="N", help="number of folds (default: 3)")
        parser.add_argument("--seed", type=int, default=0, help="seed of the shuffling (default: 0)")


def run(args: argparse.Namespace, progress: Progress) -> None:
    """Do what was asked."""
    from sahlora.case_checks import check_cases
    from sahlora.cases import list_cases
    from sahlora.files import require_writable

    if args.action == "folds":
        require_writable(args.output)
    checked = check_cases(list_cases(args.manifest), progress)
    if args.action == "check":
        _report(args, checked, progress)
    else:
        _divide(args, checked, progress)


def _report(args: argparse.Namespace, checked: list[CheckedCase], progress: Progress) -> None:
    """Print what was found; raise if there is any error."""
    listed = [_plain(one) for one in checked]
    if args.progress != "json":
        print(json.dumps(listed, indent=2, ensure_ascii=False) if args.json else "\n".join(_table(checked)))
    progress.result(cases=listed)
    if wrong := _wrong(checked):
        raise wrong


def _divide(args: argparse.Namespace, checked: list[CheckedCase], progress: Progress) -> None:
    from sahlora.folds import assign_folds, write_folds

    if wrong := _wrong(checked):
        raise wrong
    volumes = {one.case.name: one.annotated_ml or 0.0 for one in checked}
    assigned = assign_folds([one.case for one in checked], volumes, args.folds, args.seed)
    write_folds(args.output, assigned)
    counts = [len({a.patient for a in assigned if a.fold == fold}) for fold in range(args.folds)]
    progress.result(folds=str(args.output), patients=counts, seed=args.seed)
    if args.progress != "json":
        print(f"Wrote {args.output}: {', '.join(map(str, counts))} patients.")


def _wrong(checked: list[CheckedCase]) -> InputError | None:
    """Return the error that says how many cases can't be used."""
    from sahlora.errors import InputError

    names = [one.case.name for one in checked if one.severity == "error"]
    if not names:
        return None
    return InputError(
        "bad-cases",
        f"{len(names)} of {len(checked)} cases have errors: {', '.join(names)}.",
        "Mend them or leave them out; “sahlora cases check” says what is wrong.",
    )


def _plain(one: CheckedCase) -> dict[str, Any]:
    return {
        "case": one.case.name,
        "patient": one.case.patient,
        "held_out": one.case.held_out,
        "annotated_ml": None if one.annotated_ml is None else round(one.annotated_ml, 3),
        "median_hu": one.median_hu,
        "findings": [asdict(finding) for finding in one.findings],
    }


def _table(checked: list[CheckedCase]) -> list[str]:
    """Return one line a case and, below it, one a finding."""
    width = max(len("case"), *(len(one.case.name) for one in checked))
    lines = [f"{'case':<{width}}  {'mL':>8}  {'median HU':>9}  findings"]
    for one in checked:
        ml = "-" if one.annotated_ml is None else f"{one.annotated_ml:.2f}"
        hu = "-" if one.median_hu is None else f"{one.median_hu:.0f}"
        lines.append(f"{one.case.name:<{width}}  {ml:>8}  {hu:>9}  {_counted(one)}")
        lines += [
            f"  {finding.severity} [{finding.code}]: {finding.message} {finding.hint}".rstrip()
            for finding in one.findings
        ]
    return lines


def _counted(one: CheckedCase) -> str:
    """Say e.g. “1 error, 2 notes”."""
    counts = {
        severity: sum(finding.severity == severity for finding in one.findings)
        for severity in ("error", "warning", "note")
    }
    return ", ".join(f"{n} {severity}{'s' * (n > 1)}" for severity, n in counts.items() if n) or "fine"
