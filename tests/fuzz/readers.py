"""Every reader of files: what undamaged files look like, how they are damaged, what reads them."""

import io
import json
import math
import struct
import tempfile
from functools import cache, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save

from gendebug_torch import Profile, Records, Schema, collect, influence, profile, recalibrate
from gendebug_torch.behavior import load_suite, run_suite
from gendebug_torch.behavior.suite.suite_file import load_behavior
from gendebug_torch.calibration.saving import load_calibration
from gendebug_torch.checks.finding import findings_from_json, findings_to_json
from gendebug_torch.curves import LearningCurves, diagnose_curves
from gendebug_torch.diagnosis.apportioning.bill import Bill, BillLine, read_bill
from gendebug_torch.diagnosis.apportioning.remedies import Regained
from gendebug_torch.diagnosis.comparison.diagnoses import bill_notes, compared_bills
from gendebug_torch.labels import audit_sheet, label_ranking, read_review
from gendebug_torch.model.formats import load_program, load_weights
from gendebug_torch.shift.checks.ks import features_keep_their_distribution
from gendebug_torch.shift.columns.chunks import prepare_table, read_table_in_chunks
from gendebug_torch.shift.columns.prepared_table import PreparedTable, table_comparison
from tests.fuzz import mutations
from tests.fuzz.command_readers import COMMAND_READERS
from tests.fuzz.folder_readers import FOLDER_READERS
from tests.fuzz.network_readers import NETWORK_READERS
from tests.fuzz.reader import (
    SCHEMA,
    SCHEMA_TEXT,
    SUITE_TEXT,
    TENSOR_SUITE,
    N,
    Reader,
    frame,
    inputs,
    network,
    written,
)

_VERDICTS = ("right", "wrong", "unsure", "0", "1", "", "WRONG", " right")


def _csv():
    return {"rows.csv": frame().to_csv(index=False).encode()}


def _parquet():
    stream = io.BytesIO()
    frame().to_parquet(stream)
    return {"rows.parquet": stream.getvalue()}


def _odd_parquet(rng):
    table = pa.Table.from_pandas(frame())
    for _ in range(rng.choice((1, 1, 2))):
        place = rng.randrange(table.num_columns)
        name = table.column_names[place]
        table = table.set_column(place, name, mutations.odd_column(rng, N))
    if rng.random() < 0.1:
        name = rng.choice((*table.column_names, "", "\x00", "a" * 1000))
        table = table.append_column(name, mutations.odd_column(rng, N))
    if rng.random() < 0.1:
        table = table.slice(0, rng.choice((0, 1, 2)))
    if rng.random() < 0.2:
        notes = (b"{}", b"null", b"[]", b'{"index_columns":["x1"]}', b"\xff", b"[" * 3000)
        table = table.replace_schema_metadata({b"pandas": rng.choice(notes)})
    stream = io.BytesIO()
    pq.write_table(table, stream)
    return {"rows.parquet": stream.getvalue()}


def _zipped_csv(rng):
    data = _csv()["rows.csv"]
    return {"rows.csv.gz": mutations.gzipped(mutations.damaged_bytes(data, rng), rng)}


def _npz():
    stream, rng = io.BytesIO(), np.random.default_rng(0)
    features = rng.normal(size=(50, 4)).astype("f4")
    np.savez(stream, logits=rng.normal(size=(50, 3)), targets=np.arange(50) % 3, features=features)
    return {"rows.npz": stream.getvalue()}


def _odd_npz(rng):
    make = mutations.npz_claims if rng.random() < 0.2 else mutations.npz_arrays
    return {"rows.npz": make(rng)}


def _records(folder):
    Records.from_frame(frame(), SCHEMA, name="rows").save(folder / "records")


def _reference(folder):
    frame().to_csv(folder / "rows.csv", index=False)
    prepare_table(folder / "rows.csv", schema=SCHEMA).save(folder / "reference.safetensors")
    (folder / "rows.csv").unlink()


def _profile(folder):
    profile(frame(), SCHEMA, sample=8).save(folder / "week.profile")


def _read_profile(folder):
    known = Profile.load(folder / "week.profile")
    assert (known + known).rows == 2 * known.rows
    known.table()
    assert len(known.records) <= known.rows


def _recalibrated(kind, folder):
    generator = torch.Generator().manual_seed(0)
    k = 3 if kind != "isotonic" else 2
    logits = 3 * torch.randn(1500, k, generator=generator)
    scale = torch.tensor([0.3, 1.0, 0.6])[:k]
    targets = torch.multinomial((logits * scale).softmax(1), 1, generator=generator)[:, 0]
    logits = logits[:, 1] - logits[:, 0] if k == 2 else logits
    rows = Records(logits=logits, targets=targets)
    recalibrate(None, rows, candidates=[kind], keep_predictions=False).save(folder / "map")


def _checkpoint(folder):
    collect(network(), inputs(), batch_size=10, checkpoint=folder / "run")


def _resumed(folder):
    rows = collect(network(), inputs(), batch_size=10, checkpoint=folder / "run")
    with torch.no_grad():
        expected = torch.cat([network()(x) for x in inputs().split(10)])
    assert torch.equal(rows.logits, expected), "a damaged checkpoint changed the answers"
    assert torch.equal(rows.features, inputs()), "a damaged checkpoint changed the rows"


def _findings():
    rows = Records.from_frame(frame(), SCHEMA, name="validation")
    found = features_keep_their_distribution.run({"validation": rows, "production": rows})
    return {"findings.json": findings_to_json(found).encode()}


def _weights(suffix, state):
    stream = io.BytesIO()
    torch.save(state, stream)
    return {f"weights{suffix}": save(state) if suffix == ".safetensors" else stream.getvalue()}


def _odd_checkpoint(rng):
    state = network().state_dict()
    held = [state, *({"state_dict": entry} for entry in (state, None, [1], {1: torch.ones(2)}))]
    held += [[1], None, {}, torch.ones(3), {1: 2}, {"weight": 1}, "text"]
    held += [{f"model.{name}": value for name, value in state.items()}, {"weight": torch.ones(2)}]
    stream = io.BytesIO()
    torch.save(rng.choice(held), stream)
    return {"weights.pt": stream.getvalue()}


def _program(folder):
    rows = torch.export.Dim("rows", min=1)
    shapes = {"input": {0: rows}}
    program = torch.export.export(network(), (inputs(),), dynamic_shapes=shapes)
    torch.export.save(program, folder / "network.pt2")


def _sheet():
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(3, (40,), generator=generator)
    probs = torch.rand(40, 3, generator=generator).softmax(1)
    sheet = audit_sheet(label_ranking(probs, targets), size=len(_VERDICTS))
    return targets, sheet.assign(verdict=_VERDICTS)


def _sheet_file(make):
    return {"sheet.csv": make()[1].to_csv(index=False).encode()}


def _edited_sheet(make, rng):
    _, sheet = make()
    sheet = sheet.astype(object)
    for _ in range(rng.choice((1, 2))):
        place = rng.randrange(len(sheet)), rng.randrange(sheet.shape[1])
        sheet.iloc[place] = rng.choice(mutations.CELLS)
    text = sheet.to_csv(index=False, sep=rng.choice((",", ",", ";")))
    return {"sheet.csv": text.encode("utf-8", "surrogatepass")}


@cache
def _influences():
    generator = torch.Generator().manual_seed(0)
    train, held_out = (
        Records(rows, (rows[:, 0] > 0).long() + (rows[:, 1] > 1).long(), name=name)
        for name, rows in zip(
            ("train", "validation"), torch.randn(2, 80, 4, generator=generator), strict=True
        )
    )
    return influence(network(), train, collect(network(), held_out))


def _influence_sheet():
    size = len(_VERDICTS)
    return _influences().labels, _influences().sheet(size=size).assign(verdict=_VERDICTS)


def _bill():
    remedy = Regained("recalibrate", 1.0, 0.5, 1.5, "")
    lines = (
        BillLine("label_shift", "", 2.0, 1.0, 3.0, remedy),
        BillLine("covariate_shift", "x1", math.nan, math.nan, math.nan, reason="no rows"),
        BillLine("unexplained", "", 1.0, -1.0, 2.0),
    )
    bill = Bill("accuracy", "percentage points", 90.0, 3.0, 2.0, 4.0, lines)
    return {"bill.json": bill.to_json().encode()}


def _read_bill(folder):
    bill = read_bill(folder / "bill.json")
    compared_bills(bill, bill)
    str((str(bill), bill_notes(bill, None), bill.billed))


def _log():
    rows = "".join(f"{i},{10 * i},{1 / (i + 1):.4f},{1 / (i + 1) + 0.1:.4f}\n" for i in range(20))
    return {"metrics.csv": f"epoch,step,train_loss,val_loss\n{rows}".encode()}


def _state():
    steps = [{"epoch": float(i), "step": 10 * i, "loss": 1 / (i + 1)} for i in range(1, 15)]
    evaluated = [{"epoch": row["epoch"], "eval_loss": row["loss"] + 0.1} for row in steps]
    history = [*steps, *evaluated, {"train_runtime": 3}]
    return {"trainer_state.json": json.dumps({"log_history": history}).encode()}


def _varint(number):
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def _field(number, content):
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _event(step, tag, value):
    entry = _field(1, tag.encode()) + _varint(2 << 3 | 5) + struct.pack("<f", value)
    event = _varint(1 << 3 | 1) + struct.pack("<d", 1e9 + step) + _varint(2 << 3) + _varint(step)
    event += _field(5, _field(1, entry))
    return struct.pack("<Q", len(event)) + bytes(4) + event + bytes(4)


def _events():
    tags = {"train_loss": 0.0, "val_loss": 0.1, "accuracy": 0.2}
    scalars = [(i, tag, 1 / (i + 1) + more) for i in range(20) for tag, more in tags.items()]
    return {"events.out.tfevents.1": b"".join(_event(*scalar) for scalar in scalars)}


def _run(folder):
    (folder / "s.yaml").write_bytes(SUITE_TEXT)
    run_suite(load_suite(folder / "s.yaml"), _scores).save(folder / "run.json")
    (folder / "s.yaml").unlink()


def _tensor_suite():
    tensors = {"x": torch.arange(6.0).reshape(2, 3)}
    stream, arrays = io.BytesIO(), io.BytesIO()
    torch.save(tensors, stream)
    np.savez(arrays, x=tensors["x"].numpy())
    files = {"tensors.pt": stream.getvalue(), "tensors.npz": arrays.getvalue()}
    return files | {"s.yaml": TENSOR_SUITE, "tensors.safetensors": save(tensors)}


def _scores(rows):
    return [0.2 for _ in rows]


def _read_schema(folder):
    schema = Schema.from_file(folder / "schema.yaml")
    more = {"row": range(N), "note": "x", "x3": 0.5, "labeler": "p"}
    table = frame().assign(label=frame()["label"].map(["no", "yes"].__getitem__), **more)
    Records.from_frame(table, schema, name="validation")


def _read_suite(folder):
    str(run_suite(load_suite(folder / "s.yaml"), _scores).to_dict())


def _read_table(folder):
    (path,) = folder.iterdir()
    Records.from_file(path, SCHEMA, name="validation")


def _read_npz(folder):
    rows = Records.from_file(folder / "rows.npz", name="validation")
    if rows.logits is not None:
        assert rows.probs.shape == rows.logits.shape


def _read_chunks(folder):
    (path,) = folder.iterdir()
    read_table_in_chunks(path, SCHEMA)


def _read_reference(folder):
    known = PreparedTable.load(folder / "reference.safetensors")
    table_comparison(known, _undamaged_reference())


@cache
def _undamaged_reference():
    with tempfile.TemporaryDirectory() as folder:
        _reference(Path(folder))
        return PreparedTable.load(Path(folder) / "reference.safetensors")


def _read_map(folder):
    module = load_calibration(folder / "map")
    shape = (5,) if type(module).__name__ == "IsotonicModule" else (5, 3)
    module(torch.zeros(shape))


def _read_curves(folder):
    (path,) = folder.iterdir()
    diagnose_curves(LearningCurves.from_run(path))


def _read_weights(folder):
    (path,) = folder.iterdir()
    load_weights(torch.nn.Linear(4, 3), str(path))


def _read_run(folder):
    run = load_behavior(folder / "run.json")
    str((str(run), run.table(), run.cases()))


def _read_program(folder):
    load_program(str(folder / "network.pt2"), "--program")


def _read_review(make, folder):
    read_review(folder / "sheet.csv", make()[0])


_STATE = {"weight": torch.ones(3, 4), "bias": torch.zeros(3)}
MAPS = ("temperature", "vector", "top_beta", "isotonic")
READERS = {
    reader.name: reader
    for reader in (
        Reader("schema", lambda: {"schema.yaml": SCHEMA_TEXT}, _read_schema, cost=3),
        Reader("suite", lambda: {"s.yaml": SUITE_TEXT}, _read_suite, cost=10),
        Reader("suite tensors", _tensor_suite, _read_suite, cost=3),
        Reader("suite run", partial(written, _run), _read_run),
        Reader("csv", _csv, _read_table, cost=5),
        Reader("csv.gz", _csv, _read_table, _zipped_csv, cost=5),
        Reader("parquet", _parquet, _read_table, _odd_parquet, cost=4),
        Reader("csv in chunks", _csv, _read_chunks, cost=5),
        Reader("parquet in chunks", _parquet, _read_chunks, _odd_parquet, cost=10),
        Reader("npz", _npz, _read_npz, _odd_npz),
        Reader("records", partial(written, _records), lambda f: Records.load(f / "records")),
        Reader("reference", partial(written, _reference), _read_reference),
        Reader("profile", partial(written, _profile), _read_profile),
        *(
            Reader(f"map {kind}", partial(written, partial(_recalibrated, kind)), _read_map)
            for kind in MAPS
        ),
        Reader("checkpoint", partial(written, _checkpoint), _resumed),
        Reader("findings", _findings, lambda f: findings_from_json(f / "findings.json"), cost=20),
        Reader("curves csv", _log, _read_curves, cost=30),
        Reader("curves json", _state, _read_curves),
        Reader("curves events", _events, _read_curves, cost=10),
        Reader("weights", partial(_weights, ".safetensors", _STATE), _read_weights),
        Reader("weights pt", partial(_weights, ".pt", _STATE), _read_weights, _odd_checkpoint),
        Reader("program", partial(written, _program), _read_program, cost=8),
        Reader("bill", _bill, _read_bill, cost=3),
        *(
            Reader(
                name,
                *(partial(one, make) for one in (_sheet_file, _read_review, _edited_sheet)),
                cost=3,
            )
            for name, make in (("review sheet", _sheet), ("influence sheet", _influence_sheet))
        ),
        *NETWORK_READERS,
        *FOLDER_READERS,
        *COMMAND_READERS,
    )
}
