"""`shift`: a reference saved, thinned and reused, and effect sizes beside the distance."""

import contextlib
import math

import numpy as np
import pytest
import torch

from gendebug_torch.errors import InputError
from gendebug_torch.shift import PreparedReference, effect_sizes, ks_two_sample, prepare_reference


def test_a_saved_reference_says_the_same(tmp_path):
    rows = torch.randn(500, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows[:50, 1] = math.nan
    prepared = prepare_reference(rows, names=["a", "b", "c"])
    loaded = PreparedReference.load(prepared.save(tmp_path / "reference.safetensors"))
    assert loaded.names == ("a", "b", "c")
    assert torch.equal(
        ks_two_sample(loaded, rows[:100] + 0.1).statistic,
        ks_two_sample(prepared, rows[:100] + 0.1).statistic,
    )
    assert [path.name for path in tmp_path.iterdir()] == ["reference.safetensors"]
    (tmp_path / "broken").write_bytes(b"not a reference")
    for path in (tmp_path / "broken", tmp_path / "absent"):
        with pytest.raises(InputError, match=r"^`path`"):
            PreparedReference.load(path)
    with pytest.raises(InputError, match=r"^`path`"):
        prepared.save(tmp_path / "broken" / "reference.safetensors")


def test_a_damaged_file_is_refused_whatever_byte_is_wrong(tmp_path):
    rows = torch.randn(40, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = prepare_reference(rows, names=["a", "b"])
    data = whole.save(tmp_path / "reference.safetensors").read_bytes()
    damaged, refused = tmp_path / "damaged.safetensors", 0
    for place in range(0, len(data), 3):
        damaged.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        with contextlib.suppress(InputError):
            # Only blanks of the file's own header may differ.
            assert torch.equal(PreparedReference.load(damaged).columns, whole.columns)
            continue
        refused += 1
    assert refused > 0.95 * len(data) / 3
    for end in (0, 7, 100, len(data) - 1):
        damaged.write_bytes(data[:end])
        with pytest.raises(InputError, match=r"^`path`"):
            PreparedReference.load(damaged)


@pytest.mark.parametrize("missing", [0, 7000, 9950])
def test_a_sketch_is_off_by_at_most_one_part_in_its_size(missing):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(10_000, 2, generator=generator, dtype=torch.float64)
    rows[:missing, 1] = math.nan
    prepared = prepare_reference(rows)
    small = prepared.sketch(200)
    assert small.columns.shape == (2, 200)
    assert small.stored.tolist() == [200, min(200, 10_000 - missing)]
    assert torch.equal(small.n, prepared.n)
    assert torch.equal(small.missing, prepared.missing)
    live = torch.randn(500, 2, generator=generator, dtype=torch.float64) + 0.4
    full, quick = ks_two_sample(prepared, live), ks_two_sample(small, live)
    assert ((full.statistic - quick.statistic).abs() <= quick.error + 1e-12).all()
    assert (quick.error <= 1 / 400).all()
    assert (quick.p_value >= full.p_value).all()
    assert torch.equal(
        prepared.sketch(20_000).columns.nan_to_num(9.0), prepared.columns.nan_to_num(9.0)
    )
    with pytest.raises(InputError, match=r"^`size`"):
        prepared.sketch(1)


def test_effect_sizes_equal_their_formulas():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(900, 3)), rng.normal([0.0, 0.5, 0.0], size=(700, 3))
    b[:, 2] *= 2
    found = effect_sizes(torch.from_numpy(a), torch.from_numpy(b))
    spread = np.sqrt((899 * a.var(0, ddof=1) + 699 * b.var(0, ddof=1)) / 1598)
    np.testing.assert_allclose(found.mean_difference.numpy(), (b.mean(0) - a.mean(0)) / spread)
    low, high = found.interval()
    assert float(low[1]) < 0.5 < float(high[1])
    assert float(found.population_stability_index[0]) < 0.05
    assert float(found.population_stability_index[1]) > 0.15
    assert float(found.population_stability_index[2]) > 0.25
    assert found.table()["feature"].iloc[0] == "column_1"


def test_the_index_without_a_shift_has_its_expected_mean():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(n, 300, generator=generator, dtype=torch.float64) for n in (1000, 500))
    found = effect_sizes(a, b)
    assert float(found.population_stability_index.mean()) == pytest.approx(
        float(found.expected_index.mean()), rel=0.1
    )


def test_effect_sizes_of_odd_columns():
    a = torch.tensor([[1.0, math.nan, 3.0], [1.0, math.nan, math.inf], [1.0, math.nan, 4.0]])
    found = effect_sizes(a, a)
    assert found.mean_difference.tolist()[0] == 0.0
    assert math.isnan(found.mean_difference.tolist()[1])
    assert found.population_stability_index.tolist()[2] == 0.0
    with pytest.raises(InputError, match=r"^`live`"):
        effect_sizes(a, a[:, :2])
    with pytest.raises(InputError, match=r"^`bins`"):
        effect_sizes(a, a, bins=1)
