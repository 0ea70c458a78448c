"""The Trainer when things go wrong, with a fake command: nothing is lost, nothing is left behind."""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pytest
from test_models import write_model
from test_segmenter import wait_for
from test_trainer_training import (  # noqa: F401 - fixtures
    add_head,
    as_in_slicer,
    cases,
    data,
    epochs_drawn,
    open_panel,
    panel,
    settings,
)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A models folder with a file that is listed, and that the fake command ignores."""
    folder = tmp_path_factory.mktemp("models")
    write_model(folder / "random.safetensors", title="Random weights")
    return folder


ALL = list(range(1, 13))


@pytest.fixture
def logic(slicer, data, monkeypatch):  # noqa: F811 - the fixture
    from SAHLoRATrainer import SAHLoRATrainerLogic
    from SAHLoRATrainerLib.testdoubles import fakecommand

    from SAHLoRACoreLib.childprocess import pythonExecutable

    monkeypatch.setenv("SAHLORA_FAKE_EPOCH_S", "0.1")
    return SAHLoRATrainerLogic([pythonExecutable(), fakecommand.__file__])


@pytest.fixture(autouse=True)
def no_dialogs(slicer, monkeypatch):
    monkeypatch.setattr(slicer.util, "errorDisplay", lambda *_, **__: None)
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda *_, **__: True)


def child_of(panel):  # noqa: F811
    return panel.parts.training._training._child


def finish(slicer, panel):  # noqa: F811
    """Resume the selected run and return it when it is done."""
    panel.ui.resumeButton.click()
    wait_for(slicer, lambda: panel.ui.trainButton.enabled)
    return panel.parts.training.selectedRun()


def epochs_on_disk(run):
    return [line["epoch"] for line in run.metrics()["axial"]]


def start(slicer, panel, epochs=2):  # noqa: F811
    """Start a training of twelve epochs, and wait until some are drawn."""
    panel.parameters.epochs = 12
    panel.ui.trainButton.click()
    wait_for(slicer, lambda: epochs_drawn(slicer) >= epochs)


def test_paused_run_goes_on_where_it_was(slicer, panel):  # noqa: F811
    start(slicer, panel)
    panel.ui.pauseButton.click()
    wait_for(slicer, lambda: panel.ui.trainButton.enabled)
    run = panel.parts.training.selectedRun()
    assert run.state == "paused"
    assert panel.ui.statusLabel.text == "Stopped. Resume it from the list of runs."
    done = len(epochs_on_disk(run))
    assert 2 <= done < 12
    run = finish(slicer, panel)

    assert run.state == "done"
    assert epochs_on_disk(run) == ALL
    assert epochs_drawn(slicer) == 12


def test_canceled_run_is_put_aside_and_can_be_deleted_with_its_scans(slicer, panel, data):  # noqa: F811
    start(slicer, panel)
    panel.ui.cancelButton.click()
    wait_for(slicer, lambda: panel.ui.trainButton.enabled)
    assert panel.parts.training.selectedRun().state == "canceled"
    assert len(list(data.rglob("ct.nrrd"))) == 3
    panel.ui.deleteRunButton.click()

    assert [path for path in data.rglob("*") if path.is_file()] == []
    assert panel.ui.runsTable.rowCount == 0


def test_closed_scene_does_not_stop_the_training(slicer, panel):  # noqa: F811
    start(slicer, panel, epochs=1)
    slicer.mrmlScene.Clear(0)
    wait_for(slicer, lambda: not panel.occupation)
    run = panel.parts.training.selectedRun()

    assert run.state == "done"
    assert epochs_on_disk(run) == ALL
    assert epochs_drawn(slicer) == 12


def test_removed_ct_does_not_stop_the_training(slicer, panel):  # noqa: F811
    start(slicer, panel, epochs=1)
    slicer.mrmlScene.RemoveNode(panel.cases.nodes("1")[0])
    wait_for(slicer, lambda: not panel.occupation)

    assert panel.parts.training.selectedRun().state == "done"
    assert "No longer in the scene" in panel.ui.statusLabel.text or not panel.ui.trainButton.enabled


def test_closing_slicer_pauses_the_training_and_leaves_no_process(slicer, panel, open_panel):  # noqa: F811
    start(slicer, panel)
    pid = child_of(panel)._process.pid
    panel.cleanup()
    with pytest.raises(ProcessLookupError):
        os.killpg(pid, 0)
    slicer.mrmlScene.Clear(0)  # the next Slicer has none of the cases
    again = open_panel()

    assert again.parts.training.selectedRun().state == "paused"
    assert "is unfinished: select it and click Resume" in again.ui.statusLabel.text
    again.ui.resumeButton.click()
    wait_for(slicer, lambda: not again.occupation)
    assert epochs_on_disk(again.parts.training.selectedRun()) == ALL


@pytest.mark.parametrize("order", [("quit", "cleanup"), ("cleanup", "quit")])
def test_training_is_paused_in_whatever_order_slicer_ends(slicer, panel, order):  # noqa: F811
    from SAHLoRATrainerLib.runs import allRuns

    start(slicer, panel)
    child = child_of(panel)
    pid, ends = child._process.pid, {"quit": slicer.app.quit, "cleanup": panel.cleanup}
    for end in order:
        ends[end]()
        assert child._failure["code"] == "cancelled"  # it was asked, and had the time to save its state
        with pytest.raises(ProcessLookupError):
            os.killpg(pid, 0)
        assert [run.state for run in allRuns()] == ["paused"]


def test_quit_while_cases_are_written_leaves_no_half_of_one(slicer, panel, data):  # noqa: F811
    panel.ui.trainButton.click()
    slicer.app.quit()
    panel.cleanup()

    assert not list(data.rglob("*.part"))
    assert panel.occupation == ""


KILLED = """
import sys
sys.path[:0] = [{here!r}, {harness!r}]
import harness
harness.unavailable()
from harness.application import MODULES, load_module, start
slicer = start()
for name in MODULES:
    load_module(name)
from dataclasses import replace
from SAHLoRACoreLib.settings import Settings
from SAHLoRATrainer import SAHLoRATrainerLogic
from SAHLoRATrainerLib.testdoubles import fakecommand
from SAHLoRATrainerLib.cases import SceneCase
from SAHLoRATrainerLib.settings import TrainSettings
from test_trainer_training import add_head
replace(Settings.load(), dataFolder={data!r}).save()
cases = [SceneCase(*add_head(slicer, seed), heldOut=seed == 1) for seed in range(2)]
logic = SAHLoRATrainerLogic([sys.executable, fakecommand.__file__])
training = logic.train(cases, TrainSettings(epochs=1000))
while training.isRunning():
    training.processOnce()
    if training._child._process is not None:
        print(training._child._process.pid, flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kills as POSIX does")
def test_killed_slicer_leaves_no_process_and_its_run_is_found_and_goes_on(slicer, data, logic):  # noqa: F811
    from SAHLoRATrainerLib.runs import allRuns

    here = str(Path(__file__).parent)
    script = KILLED.format(here=here, harness=here, data=str(data))
    other = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    child = int(other.stdout.readline())
    wait_for(slicer, lambda: allRuns() and allRuns()[0].metrics()["axial"])
    assert allRuns()[0].state == "elsewhere"
    assert not allRuns()[0].isResumable
    other.send_signal(signal.SIGKILL)
    other.wait()
    wait_for(slicer, lambda: not Path(f"/proc/{child}").exists() or is_zombie(child))
    (run,) = allRuns()
    assert run.state == "interrupted"
    done = len(epochs_on_disk(run))
    training = logic.resume(run)
    wait_for(slicer, lambda: len(epochs_on_disk(run)) > done)
    training.close()

    assert epochs_on_disk(run) == list(range(1, len(epochs_on_disk(run)) + 1))


def is_zombie(pid):
    return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"


def test_full_disk_ends_the_training_with_what_to_do_and_it_goes_on_later(slicer, panel, monkeypatch):  # noqa: F811
    monkeypatch.setenv("SAHLORA_FAKE_FULL", "3")
    panel.ui.trainButton.click()
    wait_for(slicer, lambda: panel.ui.trainButton.enabled)
    run = panel.parts.training.selectedRun()
    assert run.state == "failed"
    assert "Free some space" in panel.ui.runNoteLabel.text
    monkeypatch.delenv("SAHLORA_FAKE_FULL")

    assert epochs_on_disk(finish(slicer, panel)) == [1, 2, 3, 4]


def test_folder_that_can_not_be_written_is_told_before_anything_starts(slicer, panel, data, monkeypatch):  # noqa: F811
    data.parent.mkdir(exist_ok=True)
    data.write_text("a file where the folder should be")
    panel.ui.trainButton.click()

    assert "Not a directory" in panel.ui.statusLabel.text
    assert not panel.occupation


def test_run_of_another_version_is_left_alone(slicer, data):  # noqa: F811
    from SAHLoRATrainerLib.runs import allRuns

    folder = data / "runs" / "run-001"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"format": "sahlora-run", "version": 99}))

    assert allRuns() == []
    assert (folder / "run.json").exists()


def test_run_of_a_process_that_is_there_but_trains_it_no_more_can_go_on(slicer, data, settings):  # noqa: F811
    """A process ID is used again, e.g. after a restart, or by each Slicer in a container."""
    from SAHLoRATrainerLib.runs import newRun, readRun

    run = newRun(settings)
    assert readRun(run.folder).state == "running"
    other = run.changed(pid=os.getppid(), session="another")
    assert readRun(run.folder).state == "elsewhere"
    os.utime(run.folder / "run.json", (0, 0))
    assert readRun(run.folder).state == "interrupted"
    other.changed(pid=os.getpid())
    assert readRun(run.folder).state == "interrupted"


def test_run_of_cases_in_files_names_them_in_its_list_alone(slicer, panel, data, tmp_path):  # noqa: F811
    """A file's path may be a patient's name: it is where the command finds the file, and nowhere else."""
    from SAHLoRATrainerLib.runs import allRuns

    folder = tmp_path / "MUELLER^HANS"
    folder.mkdir()
    lines = ["case,image,label,patient,held_out"]
    for name, held_out in (("MUELLER 1", "no"), ("MUELLER 2", "yes")):
        for kind in ("ct", "label"):
            (folder / f"{name} {kind}.nrrd").write_text("")
        lines.append(f"{name},{name} ct.nrrd,{name} label.nrrd,HANS {name},{held_out}")
    (folder / "list.csv").write_text("\n".join(lines))
    for row in panel.cases.rows():
        panel.cases.remove(row.key)
    panel.parts.cases.addFiles(folder / "list.csv")
    panel.ui.trainButton.click()
    wait_for(slicer, lambda: not panel.occupation)
    (run,) = allRuns()
    assert run.state == "done"
    missing = folder / "MUELLER 1 label.nrrd"
    missing.unlink()
    for row in panel.cases.rows():
        assert "HANS" not in row.patient
    panel.ui.trainButton.click()
    wait_for(slicer, lambda: not panel.occupation)
    assert str(missing) in panel.ui.statusLabel.text
    failed, _ = allRuns()
    naming = {path.name for path in data.rglob("*") if path.is_file() and b"MUELLER" in path.read_bytes()}

    assert failed.state == "failed"
    assert failed.message.startswith("The label does not exist: \N{HORIZONTAL ELLIPSIS}")
    assert naming == {"cases.csv"}
    assert [case.image for case in run.cases] == [str(folder / f"MUELLER {n} ct.nrrd") for n in (1, 2)]
    assert not any("MUELLER" in str(path.relative_to(data)) for path in data.rglob("*"))


def test_last_epoch_that_is_written_in_part_hides_no_other(slicer, data, settings):  # noqa: F811
    from SAHLoRATrainerLib.runs import newRun

    run = newRun(settings)
    (run.trainingFolder / "axial").mkdir(parents=True)
    whole = '{"epoch": 1, "held_out_dice": 0.5}\n'
    (run.trainingFolder / "axial" / "metrics.jsonl").write_text(whole + '{"epoch": 2, "held_')

    assert run.metrics() == {"axial": [{"epoch": 1, "held_out_dice": 0.5}]}


@pytest.mark.skipif(sys.platform == "win32", reason="limits files the POSIX way")
def test_full_disk_while_the_cases_are_written_is_told_and_leaves_nothing(slicer, complaints, panel, data):  # noqa: F811
    from test_segmenter_troubles import Full

    with Full(10_000):
        panel.ui.trainButton.click()
        wait_for(slicer, lambda: panel.ui.trainButton.enabled)
    assert "Is the disk full?" in panel.ui.statusLabel.text
    assert list(data.rglob("*.nrrd")) == []
    assert all(
        "Failed to write" in text for text in complaints.take()
    )  # the disk's refusal, by Slicer itself
    panel.ui.trainButton.click()
    wait_for(slicer, lambda: panel.ui.trainButton.enabled)

    assert panel.parts.training.selectedRun().state == "done"


def test_two_runs_are_compared_in_one_chart(slicer, panel, monkeypatch):  # noqa: F811
    import qt

    monkeypatch.setenv("SAHLORA_FAKE_EPOCH_S", "0")
    for name in ("first", "second"):
        panel.parameters.runName = name
        panel.ui.trainButton.click()
        wait_for(slicer, lambda: panel.ui.trainButton.enabled)
    table = panel.ui.runsTable
    assert [table.item(row, 0).text() for row in range(2)] == ["second", "first"]
    for row in range(2):
        table.item(row, 0).setCheckState(qt.Qt.Checked)
    panel.ui.showRunsChartButton.click()
    (chart,) = slicer.util.getNodesByClass("vtkMRMLPlotChartNode")

    assert chart.GetNumberOfPlotSeriesNodes() == 4


def test_five_hundred_epochs_are_drawn_by_appending_and_never_block(slicer, panel, monkeypatch):  # noqa: F811
    """The panel's own handlers, timed one by one in processor time, which a busy machine doesn't stretch."""
    monkeypatch.setenv("SAHLORA_FAKE_EPOCH_S", "0")
    panel.parameters.epochs = 500
    longest, onProgress = [], panel.parts.training.onProgress  # noqa: N806 - Slicer's style

    def timed(event):
        begun = time.thread_time()
        onProgress(event)
        longest.append(time.thread_time() - begun)

    monkeypatch.setattr(panel.parts.training, "onProgress", timed)
    waits = []
    for waiting in (subprocess.Popen, "wait"), (subprocess.Popen, "communicate"), (time, "sleep"):
        monkeypatch.setattr(*waiting, noting(waits, *waiting))
    panel.ui.trainButton.click()
    wait_for(slicer, lambda: panel.ui.trainButton.enabled)

    assert epochs_drawn(slicer) == 500
    assert len(slicer.util.getNodesByClass("vtkMRMLPlotSeriesNode")) == 2
    assert max(longest) < 0.1
    assert waits == []  # no handler sleeps, or waits for a process: neither takes processor time


def noting(callers, owner, name):
    """The function of a name, noting who calls it; tests may."""
    function = getattr(owner, name)

    def noted(*args, **options):
        caller = Path(sys._getframe(1).f_code.co_filename)
        if caller.is_relative_to(Path(__file__).resolve().parents[2]) and "SAHLoRA" in caller.parts[-2]:
            callers.append((name, str(caller)))
        return function(*args, **options)

    return noted


def test_all_figures_of_a_training_are_of_the_same_epoch(slicer, panel, monkeypatch):  # noqa: F811
    monkeypatch.setenv("SAHLORA_FAKE_EPOCH_S", "0.03")
    panel.parameters.epochs = 60
    panel.ui.trainButton.click()
    seen, ui = set(), panel.ui

    def look():
        text = ui.statusLabel.text
        if "at most 60" in text and ui.bestLabel.text:
            status = re.search(r"epoch (\d+) of", text)[1]
            best = re.search(r"Dice ([\d.]+) of .*, epoch (\d+)", ui.bestLabel.text)
            row = [ui.runsTable.item(0, column).text() for column in (2, 3)]
            assert [status, best[1]] == row
            assert best[2] == status  # the fake Dice rises with every epoch
            seen.add(status)
        return not panel.occupation

    wait_for(slicer, look)

    assert len(seen) > 1


def test_memory_does_not_grow_with_the_length_of_a_training(slicer, panel, monkeypatch):  # noqa: F811
    """Events as the child tells them; what is drawn grows by three numbers an epoch, which VTK keeps."""
    monkeypatch.setenv("SAHLORA_FAKE_EPOCH_S", "600")  # the child itself says nothing
    panel.parameters.epochs = 1000
    panel.ui.trainButton.click()
    wait_for(slicer, lambda: panel.ui.statusLabel.text.startswith("Stage: training axial"))
    child, kept = child_of(panel), {}
    tracemalloc.start()
    try:
        for epoch in range(1, 2001):
            values = {"loss": 1 / epoch, "held_out_dice": 1 - 1 / epoch}
            told = {"event": "progress", "stage": "training axial", "fraction": epoch / 2000, "eta_s": 12.0}
            child._take(told)
            child._take({"event": "metric", "epoch": epoch, **values})
            if epoch in (500, 2000):
                panel.parts.training._draw(atOnce=True)
                slicer.app.processEvents()
                gc.collect()
                kept[epoch], _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert epochs_drawn(slicer) == 2000
    panel.ui.cancelButton.click()
    wait_for(slicer, lambda: not panel.occupation)

    assert kept[2000] - kept[500] < 1500 * 24  # bytes: not even one number kept of each event


def test_check_tells_of_every_row_what_to_do(slicer, panel):  # noqa: F811
    volume, segmentation, _ = add_head(slicer, 7)
    segmentation.GetSegmentation().GetSegment("blood").RemoveAllRepresentations()
    panel.addCase(volume, segmentation, "blood")
    panel.ui.checkCasesButton.click()
    assert panel.occupation == "The cases are being checked."
    wait_for(slicer, lambda: not panel.occupation)
    rows = panel.cases.rows()

    assert [row.status for row in rows] == ["fine", "warning", "fine", "error"]
    assert "Look at it." in rows[1].message
    assert "module Segmentations" in rows[3].message
    assert [row.ml for row in rows] == [20.5, 21.5, 22.5, None]
    assert panel.ui.casesTable.item(1, 4).text() == "look at it"


def test_parameters_share_and_size_follow_method_and_rank(slicer, panel):  # noqa: F811
    panel.parts.adapter.count()
    wait_for(slicer, lambda: panel.ui.countLabel.text)
    assert panel.ui.countLabel.text == "3,952 parameters (1.0% of the model), a file of about 19 kB."
    panel.ui.rankSpinBox.value = 8
    panel.ui.coronalCheckBox.checked = True
    text = "7,904 parameters (2.0% of the model) for each of 2 views, a file of about 67 kB."
    assert panel.ui.countLabel.text == text


def test_time_is_estimated_from_a_probe_that_leaves_nothing_behind(slicer, panel, data, monkeypatch):  # noqa: F811
    from SAHLoRATrainerLib import casejobs

    monkeypatch.setattr(casejobs, "PROBE_S", 0.1)
    panel.ui.estimateButton.click()
    wait_for(slicer, lambda: not panel.occupation)

    assert "Time: about 1" in panel.ui.estimateLabel.text  # the fake command always has 12 s left
    assert not (data / "runs").exists()
    panel.ui.rankSpinBox.value = 9
    assert panel.ui.estimateLabel.text == "Time: not estimated yet."


def test_training_from_a_script_waits_and_gives_the_adapter(slicer, logic, cases, settings):  # noqa: F811
    training = logic.train(cases, settings, waitForCompletion=True)

    assert training.run.adapter.is_file()
    assert training.result["better"] is True
    with pytest.raises(ValueError, match="at least one that is held out"):
        logic.train(cases[:1], settings)


def test_example_for_scripts_runs_as_it_stands(slicer, logic, capsys, monkeypatch):
    from SAHLoRACoreLib import childprocess

    page = (Path(__file__).resolve().parents[2] / "Docs" / "trainer.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    for seed, name in enumerate("AB"):
        volume, segmentation, _ = add_head(slicer, seed)
        volume.SetName(f"CT {name}")
        segmentation.SetName(f"Outline {name}")
    monkeypatch.setattr(childprocess, "commandPrefix", lambda: logic.command)
    exec(example, {"slicer": slicer})
    told = capsys.readouterr().out

    assert "adapter.safetensors A made-up gain." in told
    assert "better on 1 of 1 held-out cases" in told
