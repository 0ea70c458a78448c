"""Check annotated cases, divide them into folds, list published ones, and choose what to annotate next.

MANIFEST is a CSV or JSON file that lists the cases, or a folder with one subfolder a case that holds ct.* and
label.*; see Docs/cases.md. Checking reads every image and label, names what is wrong or doubtful and how to
mend it, and ends with status 3 if there is any error. One case that can't be read does not stop the others.
Ranking takes a folder of scans that nobody annotated yet.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sahlora.runtime.progress import Progress

if TYPE_CHECKING:
    from sahlora.cases.checks import CheckedCase

SUMMARY = "check annotated cases, divide them into folds, choose what to annotate next"
EXAMPLE = "sahlora cases check cases.csv"
ACTIONS = {
    "check": "check images and labels of all cases and say what to mend",
    "folds": "divide the patients into folds that are alike in annotated volume",
    "from": "list the cases of a published data set that you have, to train and evaluate with",
    "rank": "rank scans by how much the model's predictions of them differ: what to annotate next",
}


def configure(action: str, parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of one action."""
    if action == "rank":
        _configure_ranking(parser)
        return
    if action == "from":
        _configure_published(parser)
        return
    parser.add_argument("manifest", type=Path, metavar="MANIFEST", help="CSV, JSON or folder of cases")
    if action == "check":
        parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    else:
        parser.add_argument(
            "-o", "--output", type=Path, required=True, metavar="FOLDS.csv", help="table to write"
        )
        parser.add_argument("--folds", type=int, default=3, metavar="N", help="number of folds (default: 3)")
        parser.add_argument("--seed", type=int, default=0, help="seed of the shuffling (default: 0)")


def _configure_published(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data", metavar="DATA", help="BHSD, CT-ICH (NIfTI release), INSTANCE, Seg-CQ500 or HemSeg"
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where it was unpacked")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="MANIFEST.csv", help="list of cases to write"
    )
    parser.add_argument(
        "--sah", action="store_true", help="count subarachnoid hemorrhage alone, where the labels tell it"
    )


def _configure_ranking(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "scans",
        type=Path,
        metavar="SCANS",
        help="folder of scans (files, or folders of DICOM files), or a CSV or JSON list with case and image",
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="RANKING", help="table to write: .csv or .json"
    )
    parser.add_argument("--model", help="name or file (default: hemorrhage-base, or the adapter's base)")
    parser.add_argument(
        "--adapter",
        action="append",
        default=[],
        help="name or file of an adapter of the model; repeat for an ensemble, e.g. of the folds",
    )
    parser.add_argument(
        "--views", metavar="VIEWS", help="e.g. axial,coronal,sagittal (default: all that the models have)"
    )
    parser.add_argument(
        "--proposals",
        type=Path,
        metavar="FOLDER",
        help="write each scan's outline there as .seg.nrrd, to be corrected; new or empty folder",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of the CPU (default: all cores)")


def run(args: argparse.Namespace, progress: Progress) -> None:
    """Do what was asked."""
    if args.action == "rank":
        _rank(args, progress)
        return
    if args.action == "from":
        _list_published(args, progress)
        return
    from sahlora.cases.checks import check_cases
    from sahlora.cases.manifest import list_cases, manifest_files
    from sahlora.runtime.files import require_writable

    cases = list_cases(args.manifest)
    if args.action == "folds":
        files = [file for case in cases for file in case.files]
        require_writable(args.output, inputs=[*files, *manifest_files(args.manifest)])
    checked = check_cases(cases, progress)
    if args.action == "check":
        _report(args, checked, progress)
    else:
        _divide(args, checked, progress)


def _list_published(args: argparse.Namespace, progress: Progress) -> None:
    """Write the manifest of a published data set and say whose it is."""
    from sahlora.cases.manifest import write_manifest
    from sahlora.cases.published import DATA_SETS, published_cases
    from sahlora.runtime.files import require_ending, require_writable

    require_ending(args.output, ".csv")
    require_writable(args.output)
    cases = published_cases(args.data, args.folder, args.output, only_sah=args.sah)
    write_manifest(args.output, cases)
    data = DATA_SETS[args.data]
    progress.result(manifest=str(args.output), cases=len(cases), licence=data.licence, cite=data.citation)
    if args.progress != "json":
        print(f"Wrote {args.output}: {len(cases)} cases of {data.name}.")
        print(f"Licence: {data.licence}.\nCite: {data.citation}.")


def _report(args: argparse.Namespace, checked: list[CheckedCase], progress: Progress) -> None:
    """Print what was found; raise if there is any error."""
    from sahlora.cases.checks import require_sound

    listed = [_plain(one) for one in checked]
    if args.progress != "json":
        print(json.dumps(listed, indent=2, ensure_ascii=False) if args.json else "\n".join(_table(checked)))
    progress.result(cases=listed)
    require_sound(checked)


def _divide(args: argparse.Namespace, checked: list[CheckedCase], progress: Progress) -> None:
    from sahlora.cases.checks import require_sound
    from sahlora.cases.folds import assign_folds, write_folds

    require_sound(checked)
    volumes = {one.case.name: one.annotated_ml or 0.0 for one in checked}
    assigned = assign_folds([one.case for one in checked], volumes, args.folds, args.seed)
    write_folds(args.output, assigned)
    counts = [len({a.patient for a in assigned if a.fold == fold}) for fold in range(args.folds)]
    progress.result(folds=str(args.output), patients=counts, seed=args.seed)
    if args.progress != "json":
        print(f"Wrote {args.output}: {', '.join(map(str, counts))} patients.")


def _rank(args: argparse.Namespace, progress: Progress) -> None:
    """Rank scans, write the table, and print it."""
    from sahlora.cases.manifest import manifest_files
    from sahlora.cases.scans import list_scans
    from sahlora.errors import UsageError
    from sahlora.imaging.planes import parse_views
    from sahlora.inference.ranking import Ranker, as_rows
    from sahlora.models.selection import select_models
    from sahlora.runtime.devices import choose_device, use_threads
    from sahlora.runtime.files import require_ending, require_writable

    progress.stage("checking")
    require_ending(args.output, ".csv", ".json")
    scans = list_scans(args.scans)
    if args.proposals is not None and args.proposals.is_dir() and any(args.proposals.iterdir()):
        raise UsageError(
            "folder-not-empty",
            f"{args.proposals} is not empty; what is in it may be corrected already.",
            "Choose a new folder.",
        )
    use_threads(args.threads)
    ranker = Ranker(
        [select_models(args.model, adapter) for adapter in args.adapter or [None]],
        choose_device(args.device),
        parse_views(args.views) if args.views else None,
        args.proposals,
    )
    require_writable(
        args.output,
        args.proposals and args.proposals / "first",
        inputs=[*scans.values(), *manifest_files(args.scans)],
    )
    ranked = ranker.rank(scans, args.output, progress)
    progress.result(ranking=as_rows(ranked), predictions=ranker.predictions, table=str(args.output))
    if args.progress != "json":
        for number, one in enumerate(ranked, 1):
            place = "   -" if one.score is None else f"{number:>4}"
            print(f"{place}  {'-' if one.score is None else f'{one.score:.3f}':>5}  {one.scan}: {one.reason}")


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
