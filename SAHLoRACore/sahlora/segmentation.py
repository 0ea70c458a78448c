"""The main job as one function: a head CT in, the hemorrhage in it outlined and measured.

>>> found = segment("head.nii.gz", adapter="sah-ct")  # doctest: +SKIP
>>> found.volume_ml  # doctest: +SKIP
27.5
>>> found.save_label("label.seg.nrrd")  # doctest: +SKIP

For research use only, not for diagnosis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from sahlora.errors import UsageError
from sahlora.imaging.volume import Volume, read_volume
from sahlora.imaging.writers import (
    require_image_path,
    require_label_path,
    write_image,
    write_label,
    write_probability,
)
from sahlora.inference.predictor import InferenceSettings, Prediction, predict
from sahlora.models.base_model import Model
from sahlora.models.registry import find
from sahlora.models.selection import select_models
from sahlora.report.measurements import Measurements, measure, remove_small_components
from sahlora.runtime.devices import choose_device
from sahlora.runtime.files import require_apart, require_ending, require_writable
from sahlora.runtime.progress import SILENT, Progress

DEFAULTS = InferenceSettings()


@dataclass(frozen=True, eq=False)
class Segmentation:
    """What was found in a scan, and how.

    Parameters
    ----------
    volume : Volume
        The scan.
    label : ndarray (Z, Y, X)
        bool in canonical order: what is outlined.
    measurements : Measurements
    prediction : Prediction
        Probabilities, views, device and seconds.
    model : Model
        The model of the first view; its card says what is outlined.
    threshold : float
        Probability from which on a voxel is outlined.
    settings : mapping of str to str
        What was chosen, in words for a report.
    grid : Path, optional
        File with the CT on the written label's grid, where the slices lie on none that the formats hold.
    """

    volume: Volume
    label: np.ndarray
    measurements: Measurements
    prediction: Prediction
    model: Model
    threshold: float
    settings: Mapping[str, str]
    grid: Path | None = None

    @property
    def volume_ml(self) -> float:
        """Volume of what is outlined, in mL."""
        return self.measurements.volume_ml

    def save_label(self, path: Path | str) -> Path | None:
        """Write the label map on the scan's own grid.

        Slices that lie on no grid that files hold are brought to an even one; the CT on it is then written
        beside the label as ``NAME-ct``, and its path returned.

        Raises
        ------
        UsageError
            ``unsupported-output``, or ``same-file`` if a foreign file is where the CT would go.
        ResourceError
            ``unwritable`` or ``disk-full``.
        """
        path = Path(path)
        require_label_path(path)
        grid = grid_file(path, self.volume)
        write_label(self.volume.to_grid(self.label, label=True), path, self.model.card.target.segment)
        if grid is not None:
            write_image(self.volume.to_grid(self.volume.hu, label=False), grid)
        return grid


def segment(
    ct: Path | str | Volume,
    *,
    model: str | Path | None = None,
    adapter: str | Path | None = None,
    view_models: Mapping[str, str] | None = None,
    settings: InferenceSettings = DEFAULTS,
    threshold: float | None = None,
    minimum_component_ml: float = 0.0,
    series: str | None = None,
    device: str | torch.device = "auto",
    outputs: ResultFiles | None = None,
    progress: Progress = SILENT,
) -> Segmentation:
    """Outline hemorrhage on a head CT and measure it.

    Parameters
    ----------
    ct : Path, str or Volume
        A NIfTI, NRRD or MetaImage file, a folder with a DICOM series, or a volume that was read.
    model : str or Path, optional
        Name or file of the base; by default the adapter's, or the shipped one.
    adapter : str or Path, optional
        Name or file of an adapter; its views are used.
    view_models : mapping of str to str, optional
        Another base for single views.
    settings : InferenceSettings
        Views and their weights, mirrored pass, slices at once, precision.
    threshold : float, optional
        Probability from which on a voxel is outlined; by default the model's own.
    minimum_component_ml : float
        Connected pieces smaller than this, in mL, are dropped.
    series : str, optional
        UID, number or description of the DICOM series.
    device : str or torch.device
        auto, cpu, cuda, cuda:N or mps.
    outputs : ResultFiles, optional
        Files to write; whether they can be written is checked before anything takes time.
    progress : Progress
        Told of stages, and asked whether to stop.

    Raises
    ------
    UsageError
        ``bad-threshold``, ``minimum-component``, or from choosing models, device and files.
    InputError
        From reading the scan and the models.
    ResourceError
        ``out-of-memory``, or from writing.
    """
    progress.stage("checking")
    _require_choices(threshold, minimum_component_ml)
    if outputs is not None:
        bases = [model, *(view_models or {}).values()]
        named = [find(str(name), "base") for name in bases if name is not None]
        named += [] if adapter is None else [find(str(adapter), "adapter")]
        outputs.require_writable([*([] if isinstance(ct, Volume) else [Path(ct)]), *named])
    if isinstance(device, str):
        device = choose_device(device)
    models = select_models(
        None if model is None else str(model),
        None if adapter is None else str(adapter),
        view_models or {},
    )
    main = next(iter(models.values()))
    volume = ct if isinstance(ct, Volume) else read_volume(ct, series=series, progress=progress)
    if outputs is not None:
        outputs.require_fitting(volume)
    prediction = predict(
        volume, {view: one.for_inference() for view, one in models.items()}, settings, device, progress
    )
    threshold = threshold or main.card.target.threshold
    label = prediction.probability >= threshold
    if minimum_component_ml > 0:
        label = remove_small_components(label, volume, minimum_component_ml)
    words = {
        "threshold": f"{threshold:g}",
        "views": ", ".join(prediction.views),
        "left-right flip": "yes" if settings.flip else "no",
        "smallest piece kept": f"{minimum_component_ml:g} mL",
        "precision": prediction.precision,
    }
    measured = measure(label, volume, probability=prediction.probability)
    found = Segmentation(volume, label, measured, prediction, main, threshold, words)
    if outputs is None:
        return found
    progress.stage("writing")
    return replace(found, grid=outputs.write(found))


def _require_choices(threshold: float | None, minimum_component_ml: float) -> None:
    if threshold is not None and not 0 < threshold < 1:
        raise UsageError("bad-threshold", f"Threshold {threshold} is no probability.", "Give one in (0, 1).")
    if not minimum_component_ml >= 0:
        raise UsageError("minimum-component", f"Pieces of {minimum_component_ml} mL.", "Give 0 mL or more.")


@dataclass(frozen=True)
class ResultFiles:
    """Which results are written where; what is None is not written.

    Parameters
    ----------
    label : Path
        Label map; its ending decides the format.
    probability, disagreement : Path, optional
        Volumes on the label's grid.
    dicom_seg : Path, optional
        DICOM SEG, for DICOM input.
    report : Path, optional
        Measurements as JSON.
    csv : Path, optional
        Area and volume of each slice.
    overlay, page : Path, optional
        Picture, and picture with measurements on one HTML page.
    with_identifiers : bool
        Whether report, picture and page show the patient's name, ID and dates.
    """

    label: Path
    probability: Path | None = None
    disagreement: Path | None = None
    dicom_seg: Path | None = None
    report: Path | None = None
    csv: Path | None = None
    overlay: Path | None = None
    page: Path | None = None
    with_identifiers: bool = False

    @property
    def paths(self) -> list[Path]:
        """All files to write."""
        results = (
            self.label, self.probability, self.disagreement, self.dicom_seg, self.report, self.csv,
            self.overlay, self.page,
        )  # fmt: skip
        return [path for path in results if path is not None]

    def require_writable(self, inputs: Sequence[Path]) -> None:
        """Check endings, folders and that nothing overwrites the scan, before anything takes time.

        Raises
        ------
        UsageError
            ``unsupported-output`` or ``same-file``.
        ResourceError
            ``unwritable``.
        """
        require_label_path(self.label)
        for path in filter(None, (self.probability, self.disagreement)):
            require_image_path(path)
        endings = {"report": ".json", "csv": ".csv", "overlay": ".png", "page": ".html"}
        for name, ending in endings.items():
            path = getattr(self, name)
            if path is not None:
                require_ending(path, ending)
        require_writable(*self.paths, inputs=inputs)

    def require_fitting(self, volume: Volume) -> None:
        """Check what depends on the scan.

        Raises
        ------
        UsageError
            ``not-dicom``; ``same-file`` if one is a slice of the scan, or a foreign file is where the CT on
            the label's grid would go.
        """
        require_apart(self.paths, [source for source in volume.sources if isinstance(source, Path)])
        if self.dicom_seg and not volume.sources:
            raise UsageError(
                "not-dicom", "DICOM SEG needs a DICOM series as input.", "Leave --dicom-seg out."
            )
        grid_file(self.label, volume)

    def write(self, found: Segmentation) -> Path | None:
        """Write the results; return the file with the CT on the label's grid where one is needed."""
        volume, prediction = found.volume, found.prediction
        grid = found.save_label(self.label)
        for values, path in (
            (prediction.probability, self.probability),
            (prediction.disagreement, self.disagreement),
        ):
            if path is not None and values is not None:
                write_probability(volume.to_grid(values, label=False), path)
        self._write_reports(found)
        if self.dicom_seg is not None:
            from sahlora.imaging.dicom_seg import write_dicom_seg

            card = found.model.card
            write_dicom_seg(
                volume, found.label, self.dicom_seg, card.target.segment, algorithm=card.description.title
            )
        return grid

    def _write_reports(self, found: Segmentation) -> None:
        if not (self.report or self.csv or self.overlay or self.page):
            return
        from sahlora.report.measurements import write_csv, write_json
        from sahlora.report.report import ReportContext, write_overlay, write_page

        context = ReportContext(
            segment=found.model.card.target.segment,
            model=found.model.facts(),
            settings=found.settings,
            identifiers=found.volume.identifiers if self.with_identifiers else {},
        )
        if self.report is not None:
            notes = {"notes": list(found.volume.notes)}
            write_json(self.report, found.measurements, {**context.to_dict(), **notes})
        if self.csv is not None:
            write_csv(self.csv, found.measurements)
        if self.overlay is not None:
            write_overlay(self.overlay, found.label, found.volume, found.measurements, context)
        if self.page is not None:
            write_page(self.page, found.label, found.volume, found.measurements, context)


def grid_file(label: Path, volume: Volume) -> Path | None:
    """Return where the CT on the label's grid goes, if one is needed: ``head-ct.nii.gz`` for ``head.nii.gz``.

    Raises
    ------
    UsageError
        ``same-file`` if a foreign file is there.
    """
    if volume.is_regular:
        return None
    stem, dot, ending = label.name.replace(".seg.nrrd", ".nrrd").partition(".")
    beside = label.with_name(f"{stem}-ct{dot}{ending}")
    if beside.exists() and not label.exists():
        raise UsageError(
            "same-file",
            f"{beside} would be overwritten: the CT on the label's grid is written there.",
            "Choose another name for the label map.",
        )
    return beside
