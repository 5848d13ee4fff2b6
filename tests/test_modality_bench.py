"""A thinned run of scripts/bench_modality.py, on seeds of its own."""

import pytest

from scripts.bench_modality import judged


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["exchanged", "unit"])
def test_a_fault_of_sensors_is_named_with_its_channel(fault):
    found = judged("series", 11, 300, fault, None)
    assert found["errored"] == []
    assert (found["cause"], found["subject"], found["decided"]) == (True, True, True), found


@pytest.mark.slow
def test_a_mark_in_the_corner_of_digits_is_the_first_cause(shared_data):
    found = judged("mnist", 11, 400, "corner mark", None)
    assert (found["first"], found["subject"], found["decided"]) == (True, True, True), found
