import json
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
import torch

from gendebug_torch import Records, Schema
from gendebug_torch.data.tables import logits_of_probs, model_inputs, numeric_features
from gendebug_torch.errors import InputError


def frame(n=6):
    return pd.DataFrame(
        {
            "amount": np.linspace(0, 1, n),
            "shop": list("ababab")[:n],
            "when": pd.date_range("2024-01-01", periods=n),
            "label": ["no", "yes", "no", "yes", "yes", "no"][:n],
            "score": np.linspace(-2, 2, n),
        }
    )


SCHEMA = Schema(
    target="label", time="when", classes=("no", "yes"), logits="score", categorical="shop"
)


def records():
    return Records.from_frame(frame(), SCHEMA, name="validation")


def test_a_table_is_split_by_its_schema():
    made = records()
    assert list(made.features.columns) == ["amount", "shop"]
    assert list(made.metadata.columns) == ["when"]
    assert made.targets.tolist() == [0, 1, 0, 1, 1, 0]
    assert made.logits.shape == (6,)
    assert len(made) == 6


def test_derived_values():
    made = Records(logits=torch.tensor([[2.0, 0.0], [0.0, 1.0]]), targets=torch.tensor([0, 0]))
    assert made.probs.sum(1).tolist() == pytest.approx([1, 1])
    assert made.predicted.tolist() == [0, 1]
    assert made.correct.tolist() == [True, False]
    assert made.confidence.tolist() == pytest.approx(made.probs.amax(1).tolist())
    binary = Records(logits=torch.tensor([-1.0, 3.0]))
    assert binary.predicted.tolist() == [0, 1]
    assert binary.confidence.min() >= 0.5
    many = Records(logits=torch.tensor([[-1.0, 3.0]]), targets=torch.tensor([[0, 1]]))
    assert many.predicted.tolist() == [[0, 1]]


def test_a_masked_class_has_probability_zero():
    made = Records(
        logits=torch.tensor([[2.0, -torch.inf, 0.0], [-torch.inf, 1.0, -torch.inf]]),
        targets=torch.tensor([2, 1]),
    )
    assert torch.allclose(
        made.probs[:, [0, 2]],
        torch.tensor([[2.0, 0.0], [-torch.inf, -torch.inf]]).double().softmax(1).nan_to_num(0.0),
    )
    assert made.probs[1].tolist() == [0, 1, 0]
    assert made.predicted.tolist() == [0, 1]
    assert made.confidence.tolist() == pytest.approx(
        [float(torch.tensor(2.0).double().sigmoid()), 1]
    )
    assert made.correct.tolist() == [False, True]


def test_select_and_concat():
    made = records()
    part = made.select(made.targets == 1)
    assert part.features["amount"].tolist() == made.features["amount"][[1, 3, 4]].tolist()
    assert part.select([2, 0]).targets.tolist() == [1, 1]
    joined = Records.concat([part, made.select([0])])
    assert len(joined) == 4
    assert len(joined.metadata) == 4
    with pytest.raises(InputError, match="mask of length 6"):
        made.select(torch.tensor([True]))


def test_save_and_load(tmp_path):
    made = records()
    made.save(tmp_path / "kept")
    back = Records.load(tmp_path / "kept")
    pd.testing.assert_frame_equal(back.features, made.features)
    pd.testing.assert_frame_equal(back.metadata, made.metadata)
    assert torch.equal(back.logits, made.logits)
    assert (back.schema, back.name) == (made.schema, made.name)
    made.select([0]).save(tmp_path / "kept")
    assert len(Records.load(tmp_path / "kept")) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize("file", ["tensors.safetensors", "features.parquet", "records.json"])
def test_a_damaged_file_of_saved_records_is_refused(tmp_path, file):
    place = records().save(tmp_path / "kept") / file
    content = place.read_bytes()
    middle = content.index(b"validation") if file == "records.json" else len(content) - 5
    place.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    with pytest.raises(InputError, match=rf"{file}, whose SHA-256 differs.* Save them again\."):
        Records.load(place.parent)


def test_records_that_were_saved_without_sums_are_read(tmp_path):
    place = records().save(tmp_path / "kept") / "records.json"
    header = json.loads(place.read_text())
    assert set(header.pop("sha256")) >= {"tensors.safetensors", "records.json"}
    place.write_text(json.dumps(header))
    assert torch.equal(Records.load(place.parent).logits, records().logits)


def test_save_never_replaces_a_foreign_directory(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(InputError, match="other content"):
        records().save(tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "x"


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_from_file(tmp_path, suffix):
    path = tmp_path / f"table.{suffix}"
    frame().to_csv(path, index=False) if suffix == "csv" else frame().to_parquet(path)
    assert Records.from_file(path, SCHEMA).targets.tolist() == [0, 1, 0, 1, 1, 0]


def test_from_npz(tmp_path):
    probs = np.array([[0.25, 0.75], [1.0, 0.0]])
    np.savez(tmp_path / "a.npz", probs=probs, labels=np.array([1, 0], dtype=np.int32))
    made = Records.from_file(tmp_path / "a.npz")
    assert made.targets.dtype == torch.int64
    assert np.allclose(made.probs, probs)


def test_probabilities_give_themselves_back():
    p = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    assert torch.allclose(logits_of_probs(p).sigmoid(), p)
    with pytest.raises(InputError, match="`probs`"):
        logits_of_probs(torch.tensor([2.0]))


def test_numeric_features_leave_codes_out():
    names, values = numeric_features(records())
    assert names == ("amount",)
    assert values.shape == (6, 1)
    names, values = numeric_features(Records(features=torch.zeros(3, 2, 2)))
    assert names[-1] == "feature_3"


def test_model_inputs_refuses_text_and_missing_values():
    with pytest.raises(InputError, match="shop"):
        model_inputs(records())
    holes = Records(features=pd.DataFrame({"a": [1.0, None]}))
    with pytest.raises(InputError, match=r"NaN in \['a'\]"):
        model_inputs(holes)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "at least one"),
        ({"logits": torch.zeros(3), "targets": torch.zeros(2).long()}, "one length"),
        ({"logits": torch.tensor([1.0, float("nan")])}, "NaN or infinity in 1 of 2"),
        ({"logits": torch.tensor([1.0, -torch.inf])}, "NaN or infinity in 1 of 2"),
        ({"logits": torch.tensor([[1.0, -torch.inf]])}, "NaN or infinity in 1 of 1"),
        (
            {"logits": torch.tensor([[1.0, 2.0, torch.inf], [torch.nan, 0.0, 1.0]])},
            "NaN or infinity in 2 of 2.*",
        ),
        ({"logits": torch.full((2, 3), -torch.inf)}, "not for all"),
        (
            {"logits": torch.tensor([[1.0, 2.0, -torch.inf]]), "targets": torch.tensor([2])},
            "1 of 1 rows .* has logit -inf",
        ),
        (
            {
                "logits": torch.tensor([[1.0, 2.0, -torch.inf]]),
                "targets": torch.tensor([[0, 1, 0]]),
            },
            "NaN or infinity in 1 of 1",
        ),
        (
            {"logits": torch.tensor([[1.0, 2.0, -torch.inf]]), "schema": Schema(multilabel=True)},
            "NaN or infinity in 1 of 1",
        ),
        ({"logits": torch.tensor([1, 2])}, "int64"),
        ({"logits": torch.zeros(2, 3, 4).long()}, r"\[2, 3, 4\]"),
        ({"logits": torch.zeros(2, 3, 4), "targets": torch.zeros(2, 3).long()}, "movedim"),
        ({"logits": torch.zeros(2, 4, 4), "targets": torch.zeros(2, 4, 4)}, "one binary logit"),
        ({"logits": torch.zeros(2, 5), "targets": torch.ones(2, 3)}, "one label per logit"),
        ({"logits": torch.zeros(2, 3), "targets": torch.tensor([0, 3])}, "0..2"),
        ({"targets": torch.tensor([1.0, float("inf")])}, "infinities"),
        ({"targets": torch.zeros(2, 2, dtype=torch.complex64)}, r"\[2, 2\]"),
        ({"targets": torch.tensor([1, -3])}, "-3..1"),
        ({"targets": [0, 1]}, "a Tensor or an array, got list"),
        ({"features": pd.DataFrame([[1, 2]], columns=["a", "a"])}, "several named a"),
        ({"features": pd.DataFrame([[1, 2]], columns=[1, "1"])}, "several named 1"),
    ],
)
def test_what_cannot_be_records(fields, words):
    with pytest.raises(InputError, match=words):
        Records(**fields)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f.drop(columns="label"), "missing 'label'"),
        (lambda f: f.assign(label="maybe"), "maybe"),
        (lambda f: f.assign(score="x"), "score"),
        (lambda f: f.assign(score=np.nan), "NaN or infinity in 6 of 6"),
    ],
)
def test_what_cannot_be_a_table(change, words):
    with pytest.raises(InputError, match=words):
        Records.from_frame(change(frame()), SCHEMA)


def test_counts_are_quantities_where_the_schema_says_so():
    frame = pd.DataFrame({"rain": [0.0, 1.0, 2.0], "riders": [977, 16, 40]})
    assert Records.from_frame(frame, Schema(target="riders")).targets.dtype == torch.int64
    assert Records.from_frame(frame, Schema(target="riders", regression=True)).targets.tolist() == [
        977.0,
        16.0,
        40.0,
    ]
    with pytest.raises(InputError, match="regression"):
        Schema(target="riders", regression=True, classes=("few", "many"))
    with pytest.raises(InputError, match="numbers"):
        Records.from_frame(frame.astype({"riders": str}), Schema(target="riders", regression=True))


def test_text_classes_must_be_ordered_by_the_caller():
    with pytest.raises(InputError, match=r"classes: \['no', 'yes'\]"):
        Records.from_frame(frame(), Schema(target="label"))


@pytest.mark.parametrize("content", [b"", b"PAR1 and no more"])
@pytest.mark.parametrize("name", ["t.csv", "t.parquet", "t.npz", "t.xlsx"])
def test_unreadable_files(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    if name == "t.csv" and content:
        pytest.skip("any text is a CSV")
    with pytest.raises(InputError, match=r"`path`: expected .*t\."):
        Records.from_file(path, SCHEMA)


def test_truncated_parquet(tmp_path):
    path = tmp_path / "t.parquet"
    frame().to_parquet(path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"t\.parquet"):
        Records.from_file(path, SCHEMA)


def test_an_npz_is_never_unpickled(tmp_path):
    np.savez(tmp_path / "bad.npz", logits=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match="npz"):
        Records.from_file(tmp_path / "bad.npz")


def test_schema_file(tmp_path):
    path = tmp_path / "schema.yaml"
    path.write_text("target: label\nclasses: [DOWN, UP]\ncategorical: day\n")
    schema = Schema.from_file(path)
    assert schema.classes == ("DOWN", "UP")
    assert schema.categorical == ("day",)


def test_schema_files_are_yaml_1_2(tmp_path):
    path = tmp_path / "schema.yaml"
    path.write_text("classes: [no, yes]\nthreshold: 1e-3\nmultilabel: false\ntime: null\nids: NO\n")
    schema = Schema.from_file(path)
    assert (schema.classes, schema.threshold, schema.ids) == (("no", "yes"), 1e-3, ("NO",))
    assert schema.multilabel is False
    assert schema.time is None


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("taget: label", 1, "Did you mean 'target'"),
        ("- a\n- b", 1, "mapping"),
        ("target: [", 1, "YAML"),
        ("logits: a\nprobs: b", 2, "both"),
        ("classes: [1, 2]\nregression: true", 2, "both"),
        ("direction: {a: up}", 1, "increasing"),
        ("target: label\ndirection: income", 2, "{income: increasing}"),
        ("direction: [income]", 1, "{income: increasing}"),
        ("direction: {a: [increasing]}", 1, "increasing"),
        ("direction: {1: increasing}", 1, "increasing"),
        ("target: label\n\nmultilabel: 'no'", 3, "true or false"),
        ("multilabel: no", 1, "true or false"),
        ("regression: 1", 1, "true or false"),
        ("target: label\ntarget: other", 2, "stands in line 1"),
        ("target: 5", 1, "quotes"),
        ("target: [label]", 1, "name of a column"),
        ("time: {a: 1}", 1, "name of a column"),
        ("source: true", 1, "name of a column"),
        ("categorical: 5", 1, "names of columns"),
        ("ids: [a, 5]", 1, "quotes"),
        ("noise: {a: 1}", 1, "names of columns"),
        ("classes: {a: 1}", 1, "values of the target"),
        ("classes: [a, [b]]", 1, "values of the target"),
        ("classes: [a, b, a]", 1, "once"),
        ("classes: [a, null]", 1, "values of the target"),
        ("threshold: '0.3'", 1, "probability"),
        ("threshold: [0.3]", 1, "probability"),
        ("threshold: true", 1, "probability"),
        ("threshold: .nan", 1, "probability"),
        ("threshold: 2", 1, "logit"),
        ("1: a", 1, "'1'"),
        ("? [a]\n: b", 1, "keys"),
        ("target: !!python/object/apply:os.system [ls]", 1, "python"),
        ("ids: &a [*a]", 1, "contains itself"),
        ("ids: " + "[" * 3000, 1, "depth"),
    ],
)
def test_bad_schema_files_name_the_line_and_the_key(tmp_path, text, line, words):
    path = tmp_path / "schema.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as refused:
        Schema.from_file(path)
    message = str(refused.value)
    assert message.startswith(f"{path}:{line}: ")
    assert words in message
    assert len(message) < 600


@pytest.mark.parametrize("content", [b"", b"# none", b"\xff\xfe", b"\x00", None])
def test_unreadable_schema_files_are_refused_by_name(tmp_path, content):
    path = tmp_path / "schema.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"schema\.yaml"):
        Schema.from_file(path)


def test_empty_table(tmp_path):
    empty = Records.from_frame(
        frame().iloc[:0].assign(label=[]),
        Schema(target="label", classes=("no",), time="when", categorical="shop"),
    )
    assert len(empty) == 0
    assert len(empty.select([])) == 0


BINARY = torch.tensor([0, 1, 1, 0, 1, 0] * 4)
CLASSES = torch.tensor([0, 1, 2, 2, 1, 0] * 4)
FORMS = {
    "int64": lambda ids: ids,
    "int8": lambda ids: ids.to(torch.int8),
    "uint8": lambda ids: ids.to(torch.uint8),
    "column": lambda ids: ids[:, None],
    "float column": lambda ids: ids[:, None].float(),
    "float": lambda ids: ids.float(),
    "float64": lambda ids: ids.double(),
}
reads_floats = pytest.mark.filterwarnings("ignore:.*whole numbers stored as floats.*")


@reads_floats
@pytest.mark.parametrize("form", [*FORMS, "bool"])
def test_labels_are_the_same_however_they_are_stored(form):
    forms = FORMS | {"bool": lambda ids: ids > 0}
    for ids, k in ((BINARY, None), (BINARY, 2), (CLASSES, 3)):
        if form == "bool" and k == 3:
            continue
        logits = torch.randn(24) if k is None else torch.randn(24, k)
        for records in (Records(targets=forms[form](ids)), Records(None, forms[form](ids), logits)):
            assert records.targets.dtype == torch.int64
            assert torch.equal(records.targets, ids)
            assert records.task == ("multiclass" if k == 3 else "binary")
            part = records.select(range(3))
            assert torch.equal(part.targets, ids[:3])


@reads_floats
@pytest.mark.parametrize("kind", ["int64", "float64", "Int64", "boolean", "object", "str"])
def test_label_columns_of_a_table(kind):
    column = pd.Series(BINARY.tolist()).astype(kind if kind != "str" else str)
    schema = Schema(target="y", classes=("0", "1") if kind == "str" else ())
    assert torch.equal(Records.from_frame(pd.DataFrame({"y": column}), schema).targets, BINARY)


def test_names_of_any_length_do_not_flood_a_message():
    frame = pd.DataFrame({"label": [0, 1], **{f"column {i}": [0.0, 1.0] for i in range(5000)}})
    with pytest.raises(InputError, match="missing") as refused:
        Records.from_frame(frame, Schema(target="x" * 10**6))
    assert len(str(refused.value)) < 3000


def test_missing_labels_mean_not_labeled():
    for targets in (
        torch.tensor([1.0, float("nan"), 0.0]),
        torch.tensor([1, -100, 0]),
        torch.tensor([[1.0], [float("nan")], [0.0]]),
    ):
        records = Records(targets=targets, logits=torch.tensor([2.0, 1.0, -1.0]))
        assert records.targets.tolist() == [1, -100, 0]
        assert records.labeled().targets.tolist() == [1, 0]
        assert records.labeled().correct.tolist() == [True, True]
    frame = pd.DataFrame({"y": [1, None, 0], "text": ["yes", None, "no"]})
    assert Records.from_frame(frame, Schema(target="y")).targets.tolist() == [1, -100, 0]
    schema = Schema(target="text", classes=("no", "yes"))
    assert Records.from_frame(frame, schema).targets.tolist() == [1, -100, 0]
    quantity = Records(targets=torch.tensor([1.5, float("nan")]))
    assert quantity.labeled().targets.tolist() == [1.5]


def test_two_readings_are_said_with_the_argument_that_decides():
    with pytest.warns(UserWarning, match=r"class ids.*regression: true"):
        assert Records(targets=CLASSES.double()).task == "multiclass"
    counts = Records(targets=CLASSES.double(), schema=Schema(regression=True))
    assert counts.targets.is_floating_point()
    one_hot = torch.nn.functional.one_hot(CLASSES)
    for rows in (one_hot, one_hot.float(), one_hot.bool()):
        with pytest.warns(UserWarning, match=r"one-hot classes.*multilabel: true"):
            assert torch.equal(Records(targets=rows).targets, CLASSES)
    labels = Records(targets=one_hot.float(), schema=Schema(multilabel=True))
    assert labels.task == "multilabel"
    assert labels.targets.dtype == torch.int64


def test_some_whole_rows_of_a_regression_are_a_regression():
    values = torch.tensor([0.5, 1.0, 0.0, 1.0])
    records = Records(targets=values)
    assert records.task == "regression"
    part = records.select([1, 2, 3])
    assert part.task == "regression"
    assert part.targets.is_floating_point()
    outputs = Records(targets=torch.rand(4, 2), logits=torch.rand(4, 2))
    assert outputs.task == "regression"


def test_columns_are_known_by_text_and_objects_that_are_numbers_are_numbers():
    table = pd.DataFrame(
        {
            0: [Decimal("1.5"), None],
            "objects": np.array([1, 2.5], dtype=object),
            "text": ["a", "b"],
            "mixed": np.array([1, "b"], dtype=object),
        }
    )
    features = Records(features=table).features
    assert list(features) == ["0", "objects", "text", "mixed"]
    assert features["0"].dtype == features["objects"].dtype == np.float64
    assert features["0"].isna().tolist() == [False, True]
    assert features["mixed"].dtype == object
    whole = pd.DataFrame({"a": [1.0]})
    assert Records(features=whole).features is whole


def test_codes_are_read_as_they_are_written(tmp_path):
    """One letter in one file, or a leading zero, does not make other levels of the rest."""
    (tmp_path / "a.csv").write_text("zip,shop,y\n01001,7,0\n20001,,1\n")
    schema = Schema(target="y", categorical=("zip", "shop"))
    features = Records.from_file(tmp_path / "a.csv", schema).features
    assert features["zip"].tolist() == ["01001", "20001"]
    assert features["shop"].dtype == "Int64"
    assert features["shop"].dropna().tolist() == [7]


@pytest.mark.parametrize(
    "arrays",
    [
        {"logits": np.float32(1.0)},
        {"logits": np.zeros((3, 0))},
        {"targets": np.array(["a", "b"])},
    ],
    ids=["no rows", "no classes", "texts"],
)
def test_arrays_that_are_no_records(tmp_path, arrays):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError):
        Records.from_file(tmp_path / "a.npz")


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float16, np.longdouble, ">f8"])
def test_arrays_of_every_kind_of_number(tmp_path, kind):
    np.savez(tmp_path / "a.npz", probs=np.array([0, 1]).astype(kind), targets=np.array([0, 1]))
    assert len(Records.from_file(tmp_path / "a.npz")) == 2


def test_arrays_are_tensors_and_a_column_of_logits_is_one_logit():
    z, y = np.array([[0.5], [-1.0]]), np.array([[1.0], [0.0]])
    records = Records(np.zeros((2, 3)), y, z)
    assert records.task == "binary"
    assert records.logits.tolist() == [0.5, -1.0]
    assert records.targets.tolist() == [1, 0]
    assert isinstance(records.features, torch.Tensor)


def test_classes_are_found_by_their_value_or_by_their_text():
    columns = [
        (("no", "yes"), ["no", "yes", None]),
        ((0, 1), [0.0, 1.0, None]),
        (("0", "1"), [0, 1, None]),
        ((1, 2), ["1", "2.0", None]),
        ((False, True), ["False", "True", None]),
        (("False", "True"), [False, True, None]),
    ]
    for classes, column in columns:
        for dtype in (object, "category"):
            frame = pd.DataFrame({"y": pd.Series(column, dtype=dtype)})
            records = Records.from_frame(frame, Schema(target="y", classes=classes))
            assert records.targets.tolist() == [0, 1, -100]
    with pytest.raises(InputError, match="Add them to `classes`"):
        Records.from_frame(pd.DataFrame({"y": [0, 2]}), Schema(target="y", classes=(0, 1)))


def test_minus_100_is_a_quantity_among_negative_ones():
    schema = Schema(regression=True)
    degrees = Records(targets=torch.tensor([-100, -50, 20]), schema=schema)
    assert degrees.targets.tolist() == [-100.0, -50.0, 20.0]
    counts = Records(targets=torch.tensor([-100, 50, 20]), schema=schema)
    assert counts.labeled().targets.tolist() == [50.0, 20.0]


@pytest.mark.parametrize("dtype", [bool, object, "boolean", "bool[pyarrow]"])
def test_booleans_are_0_and_1(dtype):
    column = pd.Series([True, False, True]).astype(dtype)
    features = Records(features=pd.DataFrame({"a": column})).features
    assert features["a"].tolist() == [1, 0, 1]
    assert features["a"].dtype == "int8"
    if dtype is not bool:
        holes = Records(features=pd.DataFrame({"a": column.mask([False, True, False])})).features
        assert holes["a"].dtype == "float64"
        assert holes["a"].isna().tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("records", "said"),
    [
        (
            lambda: Records(torch.zeros(3, 1, 8, 8), torch.tensor([0, 1, -100]), torch.zeros(3, 3)),
            ("1 x 8 x 8, float32", "0: 1, 1: 1, 1 without a label", "multiclass"),
        ),
        (
            lambda: Records(pd.DataFrame({"<b>": [1.0, 2.0]}), torch.tensor([0.5, 2.0])),
            ("&lt;b&gt;", "0.5 to 2, mean 1.25", "regression"),
        ),
        (lambda: Records(logits=torch.zeros(0)), ("<th style='text-align:left'>rows</th>",)),
    ],
)
def test_a_notebook_shows_what_records_hold(records, said):
    shown = records()._repr_html_()
    assert all(text in shown for text in said), shown
    assert "<b>" not in shown
