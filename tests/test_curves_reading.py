"""Records of past runs: CSV, TensorBoard, Hugging Face, any table; whole, cut, out of order,
repeated."""

import json
import struct
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from tensorboardX import SummaryWriter

from gendebug_torch.curves import LearningCurves, diagnose_curves
from gendebug_torch.curves.files.run_files import read_run
from gendebug_torch.errors import InputError


def frame(epochs=5, **columns):
    epoch = np.arange(epochs)
    return pd.DataFrame(
        {"epoch": epoch, "train_loss": 1.0 / (epoch + 1), "val_loss": 1.2 / (epoch + 1)} | columns
    )


def test_a_plain_table():
    curves = LearningCurves.from_frame(frame(val_accuracy=np.linspace(0, 1, 5), remark=["a"] * 5))
    assert curves.epoch.tolist() == [0, 1, 2, 3, 4]
    assert list(curves.metrics) == ["val_accuracy"]
    assert curves.notes == ()
    nested = LearningCurves.from_frame(frame(remark=[[1], {}, None, (1,), "a"]))
    assert not nested.metrics
    decimals = frame(val_loss=[Decimal(1), Decimal(2), "3", 4.0, np.float32(5)])
    assert LearningCurves.from_frame(decimals).val_loss.tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("train_loss_epoch", "val_loss"),
        ("loss", "eval_loss"),
        ("Loss/train", "Loss/validation"),
        ("training loss", "valid-loss"),
    ],
)
def test_usual_names_are_known(train, val):
    assert (
        len(
            LearningCurves.from_frame(
                frame().rename(columns={"train_loss": train, "val_loss": val})
            )
        )
        == 5
    )


def test_other_names_are_given():
    named = frame().rename(columns={"train_loss": "a", "val_loss": "b"})
    assert LearningCurves.from_frame(named, train="a", val="b").val_loss[0] == pytest.approx(1.2)
    with pytest.raises(InputError, match="no train_loss, val_loss among epoch, a, b"):
        LearningCurves.from_frame(named)
    with pytest.raises(InputError, match="'c' among"):
        LearningCurves.from_frame(named, train="c")


def lightning_rows(epochs=3, steps=4):
    """As Lightning's CSVLogger writes: a row per logged step, one per validation, one per epoch,
    each mostly empty."""
    rows = []
    for epoch in range(epochs):
        rows += [
            {"epoch": epoch, "step": epoch * steps + step, "train_loss": 10.0 * epoch + step}
            for step in range(steps)
        ]
        rows.append({"epoch": epoch, "step": (epoch + 1) * steps - 1, "val_loss": 5.0 - epoch})
    return pd.DataFrame(rows)


def test_steps_of_an_epoch_are_averaged_and_its_validation_is_the_last():
    curves = LearningCurves.from_frame(lightning_rows())
    assert curves.train_loss.tolist() == [1.5, 11.5, 21.5]
    assert curves.val_loss.tolist() == [5.0, 4.0, 3.0]


def test_a_resumed_run_counts_the_later_rows():
    rows = lightning_rows()
    again = rows[rows["epoch"] == 1].assign(train_loss=lambda t: t["train_loss"] + 100)
    curves = LearningCurves.from_frame(
        pd.concat([rows[rows["epoch"] < 2], again, rows[rows["epoch"] == 2]])
    )
    assert curves.train_loss.tolist() == [1.5, 111.5, 21.5]
    assert any("out of order" in note for note in curves.notes)
    repeated = LearningCurves.from_frame(pd.concat([frame(), frame().tail(2).assign(val_loss=9.0)]))
    assert repeated.val_loss.tolist()[-2:] == [9.0, 9.0]


def test_missing_epochs_are_named():
    curves = LearningCurves.from_frame(frame(8).drop(index=[3, 4]))
    assert "epochs are missing between 2 and 5" in curves.notes
    assert not LearningCurves.from_frame(frame(9).iloc[::2]).notes, (
        "every second epoch is a habit, no hole"
    )


def test_rows_without_an_epoch_are_left_out_and_named():
    table = frame()
    table.loc[2, "epoch"] = np.nan
    curves = LearningCurves.from_frame(table)
    assert curves.epoch.tolist() == [0, 1, 3, 4]
    assert "1 rows without epoch were left out" in curves.notes


def test_steps_where_there_are_no_epochs():
    rows = lightning_rows().drop(columns="epoch")
    curves = LearningCurves.from_frame(rows)
    assert curves.unit == "step"
    assert curves.epoch.tolist() == [3, 7, 11]
    assert curves.train_loss.tolist() == [1.5, 11.5, 21.5]


@pytest.mark.parametrize(
    ("table", "told"),
    [
        (frame(0), "no rows"),
        (frame().assign(val_loss=["a", "b", "c", "d", "e"]), "text in val_loss"),
        (frame().assign(val_loss=[[1], {}, None, 1.0, 2.0]), "text in val_loss"),
        (frame().drop(columns="val_loss"), "no val_loss among epoch, train_loss"),
        (frame().drop(columns="epoch"), "no epoch or step"),
        (frame().assign(epoch=[0, 1, 2, 3, np.inf]), "finite values of epoch, got inf"),
        (frame().assign(epoch=[0, 1, 2, 3, -np.inf]), "finite values of epoch, got -inf"),
        (frame().assign(epoch=[0, 1, 2, 3, 1e300]), "finite values of epoch"),
        (
            frame().drop(columns="epoch").assign(step=[0, 1, 2, 3, np.inf]),
            "finite values of step, got inf",
        ),
    ],
)
def test_what_cannot_be_read_is_refused(table, told):
    with pytest.raises(InputError, match=told):
        LearningCurves.from_frame(table)


def test_a_csv_cut_anywhere_in_its_last_line_gives_its_whole_part_and_says_so(tmp_path):
    path = tmp_path / "metrics.csv"
    text = frame().assign(val_loss=[1.2e-5, 6e-6, 4e-6, 3e-6, 2.4e-6]).to_csv(index=False)
    for end in range(text.rindex("\n", 0, -1) + 2, len(text)):
        path.write_text(text[:end])
        curves = LearningCurves.from_csv(path)
        assert curves.epoch.tolist()[:4] == [0, 1, 2, 3], text[:end]
        assert curves.val_loss.tolist()[:4] == [1.2e-5, 6e-6, 4e-6, 3e-6]
        assert any("cut short" in note for note in curves.notes), text[:end]


def test_a_line_that_was_cut_and_written_on_is_left_out_and_named(tmp_path):
    path = tmp_path / "metrics.csv"
    lines = frame(6).to_csv(index=False).splitlines()
    path.write_text("\n".join([*lines[:4], lines[4][:-3] + lines[5], lines[6], ""]))
    curves = LearningCurves.from_csv(path)
    assert curves.epoch.tolist() == [0, 1, 2, 5]
    assert (
        "1 lines of metrics.csv hold more values than its header and are left out, the first is "
        "line 5" in curves.notes
    )
    assert "epochs are missing between 2 and 5" in curves.notes


def test_of_curves_of_different_length_the_common_part_is_judged_and_the_rest_named():
    table = frame(30)
    table.loc[20:, "val_loss"] = np.nan
    found = diagnose_curves(LearningCurves.from_frame(table))
    assert found.regime == "still_improving"
    assert (
        "The validation loss ends at epoch 19, the training loss at epoch 29: not recorded, or NaN."
        in found.notes
    )


def test_a_metric_that_appears_late_and_one_that_never_does():
    table = frame(6, accuracy=[np.nan] * 4 + [0.5, 0.6], recall=[np.nan] * 6)
    curves = LearningCurves.from_frame(table)
    assert list(curves.metrics) == ["accuracy"]
    assert curves.metrics["accuracy"].isnan().tolist() == [True] * 4 + [False] * 2


def test_steps_out_of_order_are_sorted_and_named():
    rows = lightning_rows().drop(columns="epoch")
    curves = LearningCurves.from_frame(rows.iloc[::-1])
    assert curves.epoch.tolist() == [3, 7, 11]
    assert curves.train_loss.tolist() == [1.5, 11.5, 21.5]
    assert any("steps were out of order" in note for note in curves.notes)


@pytest.mark.parametrize("content", [b"", b"\x00\x01\x02", b"epoch,train_loss,val_loss\n"])
def test_an_empty_or_foreign_file_is_refused(tmp_path, content):
    path = tmp_path / "run.csv"
    path.write_bytes(content)
    with pytest.raises(InputError):
        LearningCurves.from_csv(path)
    with pytest.raises(InputError, match="absent"):
        LearningCurves.from_run(tmp_path / "absent.csv")


def test_hugging_face_trainer_state(tmp_path):
    history = []
    for epoch in range(3):
        history += [
            {
                "loss": 2.0 - epoch / 2 - half / 4,
                "epoch": epoch + 0.5 * half,
                "step": 10 * epoch + 5 * half,
            }
            for half in (1, 2)
        ]
        history.append(
            {
                "eval_loss": 1.5 - epoch / 4,
                "eval_accuracy": 0.5,
                "epoch": epoch + 1.0,
                "step": 10 * (epoch + 1),
            }
        )
    history.append({"train_runtime": 3.0, "train_loss": 1.0, "epoch": 3.0, "step": 30})
    (tmp_path / "checkpoint-30").mkdir()
    (tmp_path / "checkpoint-30" / "trainer_state.json").write_text(
        json.dumps({"log_history": history})
    )
    curves = LearningCurves.from_run(tmp_path)
    assert curves.epoch.tolist() == [1, 2, 3]
    assert curves.train_loss.tolist() == [1.625, 1.125, 0.625]
    assert curves.val_loss.tolist() == [1.5, 1.25, 1.0]
    assert "eval_accuracy" in curves.metrics
    for text in (
        '{"log_history": [{"loss"',
        '{"log_history": ["text", [1]]}',
        '{"log_history": {"a": 1}}',
        '{"log_history": null}',
        "[]",
        '{"log_history": ' + "[" * 3000 + "]" * 3000 + "}",
    ):
        (tmp_path / "checkpoint-30" / "trainer_state.json").write_text(text)
        with pytest.raises(InputError, match="trainer_state"):
            LearningCurves.from_run(tmp_path)


def test_hugging_face_evaluating_within_epochs_counts_steps(tmp_path):
    history = [{"loss": 1.0, "epoch": step / 10, "step": step} for step in range(1, 21)]
    history += [
        {"eval_loss": 1.0 / step, "epoch": step / 10, "step": step} for step in range(2, 21, 2)
    ]
    path = tmp_path / "trainer_state.json"
    path.write_text(json.dumps({"log_history": history}))
    curves = LearningCurves.from_run(path)
    assert (curves.unit, curves.epoch.tolist()) == ("step", list(range(2, 21, 2)))


def write_events(folder, steps=range(5), offset=0.0):
    with SummaryWriter(str(folder), write_to_disk=True) as writer:
        for step in steps:
            writer.add_scalar("train_loss", 1.0 / (step + 1) + offset, step)
            writer.add_scalar("val_loss", 1.2 / (step + 1) + offset, step)
            writer.add_scalar("epoch", step, step)
            writer.add_histogram("weights", np.arange(10.0), step)


def test_tensorboard_events(tmp_path):
    write_events(tmp_path)
    curves = LearningCurves.from_run(tmp_path)
    assert curves.epoch.tolist() == [0, 1, 2, 3, 4]
    assert curves.val_loss.tolist() == pytest.approx([1.2, 0.6, 0.4, 0.3, 0.24], rel=1e-6)
    assert curves.notes == ()


def test_a_tensorboard_file_cut_by_a_crash_gives_its_whole_part(tmp_path):
    write_events(tmp_path)
    (path,) = tmp_path.glob("*tfevents*")
    path.write_bytes(path.read_bytes()[:-30])
    curves = LearningCurves.from_run(path)
    assert 3 <= len(curves) <= 5
    assert any("ends inside a record" in note for note in curves.notes)


def test_two_event_files_of_one_run_count_the_later(tmp_path):
    write_events(tmp_path / "version_0")
    write_events(tmp_path / "version_1", range(3, 6), offset=1.0)
    curves = LearningCurves.from_run(tmp_path)
    assert curves.val_loss.tolist() == pytest.approx([1.2, 0.6, 0.4, 1.3, 1.24, 1.2], rel=1e-6)


def test_scalars_written_as_tensors(tmp_path):
    """TensorFlow 2 writes a scalar as a tensor of no dimension; built here byte by byte from the
    wire format."""

    def field(number, payload):
        return bytes([number << 3 | 2, len(payload)]) + payload

    def event(step, tag, value):
        tensor = bytes([1 << 3, 1]) + field(4, struct.pack("<f", value))
        summary = field(5, field(1, field(1, tag.encode()) + field(8, tensor)))
        body = (
            bytes([1 << 3 | 1]) + struct.pack("<d", 100.0 + step) + bytes([2 << 3, step]) + summary
        )
        return struct.pack("<Q", len(body)) + bytes(4) + body + bytes(4)

    path = tmp_path / "events.out.tfevents.1.host"
    path.write_bytes(
        b"".join(
            event(step, tag, step + 0.5)
            for step in range(1, 4)
            for tag in ("train_loss", "val_loss")
        )
    )
    assert LearningCurves.from_run(path).val_loss.tolist() == [1.5, 2.5, 3.5]
    path.write_bytes(b"garbage that is no event file, but long enough to look like one")
    with pytest.raises(InputError, match="no scalars"):
        LearningCurves.from_run(path)


def test_the_folder_of_a_whole_disk_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("gendebug_torch.curves.files.run_files._MAX_FOLDERS", 2)
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    with pytest.raises(InputError, match="Pass the folder of the run itself"):
        read_run(tmp_path)
