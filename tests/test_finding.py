import json

import numpy as np
import pytest
import torch

from gendebug_torch import Cause, Finding, Severity
from gendebug_torch.checks.finding import findings_from_json, findings_to_json
from gendebug_torch.errors import InputError


def finding(**fields):
    return Finding("shift.ks", Cause.COVARIATE_SHIFT, Severity.WARN, "a moved by 0.3", **fields)


def test_json_round_trip(tmp_path):
    written = [
        finding(subject="a", numbers={"d": 0.3, "bins": [1, 2]}, remedy="Rebuild a."),
        finding(),
    ]
    path = tmp_path / "findings.json"
    path.write_text(findings_to_json(written))
    assert findings_from_json(path) == written
    assert findings_from_json(path.read_text()) == written


def test_numbers_become_plain_json():
    numbers = finding(
        numbers={
            "t": torch.tensor([1.0, float("nan")]),
            "s": np.float32(2),
            "inf": float("inf"),
            "d": {"x": np.int64(1)},
            "o": object,
        }
    ).numbers
    assert numbers["t"] == [1.0, None]
    assert numbers["inf"] is None
    json.dumps(dict(numbers), allow_nan=False)


def test_strings_become_members_and_unknown_ones_are_refused():
    assert Finding("a.b", "threshold", "fail", "s").cause is Cause.THRESHOLD
    with pytest.raises(ValueError, match="nonsense"):
        Finding("a.b", "nonsense", "fail", "s")


def test_from_dict_names_what_is_missing():
    with pytest.raises(InputError, match="no remedy"):
        Finding.from_dict(
            {key: value for key, value in finding().to_dict().items() if key != "remedy"}
        )


def test_severities_are_ordered():
    levels = [Severity(name).level for name in ("ok", "note", "warn", "fail", "errored")]
    assert levels == sorted(set(levels))


ENTRY = json.loads(findings_to_json([Finding("a.b", Cause.LABEL_NOISE, Severity.OK, "Fine.")]))[0]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"{}",
        b"[1]",
        b"[[]]",
        b"\xff",
        b"[" * 100_000,
        b"[" + b"9" * 5000 + b"]",
        *(
            json.dumps([ENTRY | {key: value}]).encode()
            for key in ENTRY
            for value in (None, 3, [3], {"a": [1]}, "x" * 5000)
            if not (key == "numbers" and value == {"a": [1]})
            and not (key in ("check", "subject", "summary", "remedy") and isinstance(value, str))
        ),
    ],
    ids=lambda content: content[:20],
)
def test_what_holds_no_findings_is_refused_by_name(tmp_path, content):
    path = tmp_path / "findings.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"findings\.json") as refused:
        findings_from_json(path)
    assert len(str(refused.value)) < 1500


def test_numbers_may_be_nested():
    entry = ENTRY | {"numbers": {"a": [[1, None], {"b": True}]}}
    (found,) = findings_from_json(json.dumps([entry]))
    assert found.to_dict() == entry
