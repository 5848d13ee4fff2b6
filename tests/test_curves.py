"""Learning curves: what is computed, what is said, and what is refused."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch

from gendebug_torch import Cause, Records, Severity
from gendebug_torch.cli import main
from gendebug_torch.curves import (
    LearningCurves,
    SizeCurves,
    diagnose_curves,
    early_stopping_diagnosis,
    generalization_gap,
)
from gendebug_torch.curves.checks.gap import validation_loss_is_near_training_loss
from gendebug_torch.curves.checks.regime import training_converged_without_overfitting
from gendebug_torch.curves.fit.forecast import power_law_forecast
from gendebug_torch.curves.fit.moving_average import moving_average
from gendebug_torch.curves.fit.trend import (
    _TIME_CONSTANTS,
    Noise,
    _falling_columns,
    _solve,
    fit_trend,
)
from gendebug_torch.curves.fit.trend_tests import _tail_slopes, ar_noise, rising_tail_p_value
from gendebug_torch.errors import InputError
from scripts.bench_curves import simulate
from tests.reference import curves as reference


def exponential(
    epochs=60,
    floor=0.4,
    height=0.8,
    time=6.0,
    sd=0.004,
    seed=0,
    correlation=0.3,
    turn=None,
    slope=0.0,
):
    rng = np.random.default_rng(seed)
    epoch = np.arange(epochs)
    noise = sd * ar_noise(rng, 1, epochs, np.array([correlation]))[0]
    rise = 0.0 if turn is None else slope * (epoch - turn).clip(0)
    return floor + height * np.exp(-epoch / time) + rise + noise


def made(val, train=None, **more):
    val = np.asarray(val, dtype=float)
    train = (
        exponential(len(val), floor=0.36, sd=0.002, seed=99)
        if train is None
        else np.asarray(train, dtype=float)
    )
    return LearningCurves(
        torch.arange(len(val)), torch.from_numpy(train), torch.from_numpy(val), **more
    )


def test_moving_average_is_the_literal_one():
    for t in (1, 2, 5, 6, 31):
        values = np.random.default_rng(t).normal(size=t)
        assert moving_average(torch.from_numpy(values)).tolist() == pytest.approx(
            reference.moving_average(values.tolist())
        )
    assert moving_average(torch.arange(9.0)).tolist() == pytest.approx(list(range(9))), (
        "nothing lags on a line"
    )
    with pytest.raises(InputError, match="odd"):
        moving_average(torch.zeros(5), 4)


@pytest.mark.parametrize("t", [5, 12, 40])
def test_slopes_of_all_tails_are_those_of_line_fits(t):
    values = np.random.default_rng(t).normal(size=t)
    assert _tail_slopes(values[None], 0.7, 0.4)[0] == pytest.approx(
        reference.tail_slopes(values, 0.7, 0.4), rel=1e-9
    )


@pytest.mark.parametrize(("start", "correlation"), [(0, 0.0), (20, 0.3), (40, 0.6)])
def test_the_trend_is_the_best_non_negative_fit(start, correlation):
    values = exponential(40, turn=20, slope=0.01)
    found = _solve(values, _falling_columns(40, []), start, correlation)
    assert found.rss == pytest.approx(
        reference.trend_error(values, correlation, start, _TIME_CONSTANTS), rel=1e-5
    )


@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.6])
def test_the_noise_of_a_curve_is_estimated_without_bias(correlation):
    found = [
        fit_trend(exponential(60, correlation=correlation, seed=seed, turn=25, slope=0.002)).noise
        for seed in range(30)
    ]
    assert np.mean([noise.sd for noise in found]) == pytest.approx(0.004, rel=0.15)
    assert np.mean([noise.correlation for noise in found]) == pytest.approx(correlation, abs=0.17)


@pytest.mark.parametrize("correlation", [0.0, 0.5])
def test_p_values_of_flat_curves_are_at_least_uniform(correlation):
    noise = Noise(1.0, correlation, 0.1, 40.0)
    flat = ar_noise(np.random.default_rng(5), 300, 50, np.full(300, correlation))
    p_values = np.array([rising_tail_p_value(values, noise, replicates=300) for values in flat])
    for level in (0.02, 0.1, 0.3):
        assert (p_values <= level).mean() <= level + 2.6 * (level * (1 - level) / 300) ** 0.5


REGIMES = {
    "overfit": (made(exponential(turn=25, slope=0.004)), {}),
    "converged": (made(exponential()), {}),
    "still_improving": (made(exponential(time=40.0)), {}),
    "too_noisy": (made(exponential(sd=0.15)), {}),
    "too_short": (made([1.0, 0.6, 0.5]), {}),
    "diverged": (made(exponential(), exponential(turn=20, slope=0.05)), {}),
    "oscillating": (made(exponential() + 0.05 * np.sin(2 * np.pi * np.arange(60) / 7)), {}),
    "underfit": (
        made(np.full(30, 0.66) + exponential(30, 0, 0), np.full(30, 0.65) + exponential(30, 0, 0)),
        {"baseline_loss": 0.67},
    ),
}


@pytest.mark.parametrize("regime", REGIMES)
def test_each_regime_is_named(regime):
    curves, options = REGIMES[regime]
    found = diagnose_curves(curves, **options)
    assert found.regime == regime, found
    assert (found.inflection_epoch is not None) == (regime == "overfit")
    assert "nan" not in str(found).lower().split()


@pytest.mark.parametrize("period", [3.0, 7.0, 14.0, 20.0])
def test_a_wave_is_named_and_is_neither_an_inflection_nor_a_passing_hump(period):
    for phase in (0.0, 1.6, 3.1, 4.7):
        val = exponential(120, sd=0.008) + 0.05 * np.sin(
            2 * np.pi * np.arange(120) / period + phase
        )
        found = diagnose_curves(made(val))
        assert found.regime == "oscillating", found
        assert found.inflection_epoch is None
        assert not any("came down again" in note for note in found.notes)


def test_a_rise_far_beyond_a_wave_is_overfitting():
    val = exponential(120, turn=60, slope=0.01) + 0.03 * np.sin(2 * np.pi * np.arange(120) / 8)
    found = diagnose_curves(made(val))
    assert found.regime == "overfit"
    assert abs(found.inflection_epoch - 60) <= 6


def test_a_stop_is_asked_for_late_enough_to_be_sure_and_not_on_a_plateau():
    overfit, healthy = made(exponential(turn=25, slope=0.006)), made(exponential())

    def stop(curves):
        parts = (
            LearningCurves(curves.epoch[:t], curves.train_loss[:t], curves.val_loss[:t])
            for t in range(len(curves) + 1)
        )
        return next(
            (len(part) - 1 for part in parts if early_stopping_diagnosis(part) is not None), None
        )

    assert 28 <= stop(overfit) <= 40
    assert stop(healthy) is None


def test_the_inflection_has_its_epoch_an_interval_and_the_checkpoint_to_keep():
    found = diagnose_curves(made(exponential(turn=25, slope=0.006)))
    assert abs(found.inflection_epoch - 25) <= 2
    low, high = found.interval
    assert low <= 25 <= high <= 35
    assert found.best_epoch == found.inflection_epoch
    assert found.rise == pytest.approx(0.006 * 34 / 0.41, rel=0.15)
    assert found.confidence > 0.99


@pytest.mark.parametrize(
    ("name", "after", "rises"),
    [
        ("val_acc", 0.05, True),
        ("valid/accuracy", 0.05, True),
        ("val_f1", 0.05, True),
        ("val_acc", 0.0, False),
        ("val_acc", -0.05, False),
        ("train_acc", 0.05, False),
        ("val_acceleration", 0.05, False),
    ],
)
def test_overfitting_with_a_rising_accuracy_asks_for_recalibration_of_the_last_checkpoint(
    name, after, rises
):
    noise = 0.004 * np.random.default_rng(5).normal(size=60)
    accuracy = 0.8 + after * ((np.arange(60) - 25) / 34).clip(0) + noise
    curves = made(exponential(turn=25, slope=0.004), metrics={name: torch.from_numpy(accuracy)})
    (found,) = training_converged_without_overfitting(curves)
    assert (found.cause, found.severity) == (Cause.OVERFITTING, Severity.FAIL)
    assert ("Recalibrate the last checkpoint" in found.remedy) == rises
    assert (f"Meanwhile {name} rises from" in found.summary) == rises
    assert ("epoch 2" in found.remedy) or "epoch 3" in found.remedy


def test_a_learning_rate_drop_is_a_step_and_no_inflection():
    val = exponential()
    val[35:] -= 0.08
    found = diagnose_curves(made(val))
    assert found.regime == "converged"
    assert any("steps down" in note and "epoch 35" in note for note in found.notes)


def test_overfitting_after_a_learning_rate_drop_is_found():
    val = exponential(turn=35, slope=0.006)
    val[35:] -= 0.08
    assert diagnose_curves(made(val)).regime == "overfit"


def test_double_descent_is_told_as_seen_and_not_called_overfitting():
    epoch = np.arange(100)
    val = exponential(100) + 0.3 * np.exp(-(((epoch - 40) / 10) ** 2) / 2)
    found = diagnose_curves(made(val))
    assert found.regime in ("converged", "still_improving")
    assert any("came down again" in note for note in found.notes)
    assert diagnose_curves(made(val[:40])).regime == "overfit", (
        "until it came back nobody could know"
    )


def test_an_even_guess_is_underfit_without_a_reference_and_another_level_is_not():
    noise = exponential(20, 0, 0, sd=0.002)
    assert diagnose_curves(made(math.log(2) + noise, math.log(2) + noise)).regime == "underfit"
    other = diagnose_curves(made(0.5 + noise, 0.5 + noise))
    assert other.regime == "converged"
    assert any("baseline_loss" in note for note in other.notes)


def test_a_target_loss_tells_underfitting_from_converged():
    curves = made(exponential(), exponential(floor=0.39, seed=2))
    assert diagnose_curves(curves).regime == "converged"
    assert diagnose_curves(curves, target_loss=0.3).regime == "underfit"


def test_the_entropy_of_the_labels_is_the_reference():
    targets = torch.tensor([0] * 900 + [1] * 100)
    entropy = 0.3251
    curves = made(
        entropy + exponential(30, 0, 0, sd=0.001), entropy + exponential(30, 0, 0, sd=0.001, seed=1)
    )
    (found,) = training_converged_without_overfitting(
        curves, Records(torch.zeros(1000, 1), targets)
    )
    assert (found.cause, found.severity) == (Cause.UNDERFITTING, Severity.WARN)
    (without,) = training_converged_without_overfitting(curves)
    assert without.severity is Severity.OK


def test_a_weighted_loss_above_the_entropy_is_not_called_underfit():
    targets = torch.tensor([0] * 900 + [1] * 100)
    curves = made(exponential(floor=0.65), exponential(floor=0.6, seed=1))
    (found,) = training_converged_without_overfitting(
        curves, Records(torch.zeros(1000, 1), targets)
    )
    assert found.severity is Severity.OK


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_ends_as_no_number_diverged_and_one_that_recovers_did_not(value):
    train = exponential(30)
    train[20:] = value
    assert "epoch 20" in diagnose_curves(made(exponential(30), train)).summary
    passing = exponential(30, floor=0.36, time=3)
    passing[20] = value
    assert diagnose_curves(made(exponential(30, time=3), passing)).regime == "converged"


def test_validation_every_few_epochs_is_no_divergence():
    val = exponential(60)
    val[np.arange(60) % 5 != 0] = np.nan
    assert diagnose_curves(made(val)).regime in ("converged", "still_improving")


def test_validation_below_training_says_what_is_ruled_out():
    val, train = exponential(), exponential(floor=0.5, seed=3)
    running = diagnose_curves(made(val, train))
    assert any("dropout" in note and "remain" in note for note in running.notes)
    alike = diagnose_curves(made(val, train, train_eval_loss=torch.from_numpy(train)))
    assert any("ruled out" in note and "also in the training data" in note for note in alike.notes)


def test_the_running_loss_is_moved_by_half_an_epoch():
    epoch = np.arange(40)
    falling = np.exp(-epoch / 5.0)
    lagging = np.array([np.exp(-(e - np.linspace(0, 1, 101)) / 5.0).mean() for e in epoch])
    gap = generalization_gap(made(falling[:20], lagging[:20]))
    assert abs(gap.absolute) < 0.2 * (lagging[15:20] - falling[15:20]).mean()


def test_the_gap_has_every_unit():
    gap = generalization_gap(
        made(exponential(floor=0.5), exponential(floor=0.4, seed=1)), baseline_loss=0.7
    )
    assert gap.absolute == pytest.approx(0.1, abs=0.01)
    assert gap.relative == pytest.approx(0.25, abs=0.03)
    assert gap.share == pytest.approx(1 / 3, abs=0.04)
    assert gap.in_noise > 5
    low, high = gap.interval
    assert low < gap.absolute < high


def test_a_small_loss_that_doubles_is_no_failure_of_generalization():
    (found,) = validation_loss_is_near_training_loss(
        made(exponential(floor=0.04, height=2), exponential(floor=0.01, height=2, seed=1))
    )
    assert found.severity is Severity.OK
    (wide,) = validation_loss_is_near_training_loss(
        made(exponential(floor=0.6), exponential(floor=0.1, seed=1))
    )
    assert wide.severity is Severity.WARN


def test_a_forecast_holds_the_truth_and_a_poor_one_is_refused():
    x = np.arange(1.0, 41.0)
    held = 0
    for seed in range(40):
        y = 0.3 + 1.2 * x**-0.7 + 0.01 * np.random.default_rng(seed).normal(size=40)
        found = power_law_forecast(x, y, 80.0, Noise(0.01, 0.0, 0.1, 30.0), seed=seed)
        held += found.interval[0] <= 0.3 + 1.2 * 80**-0.7 <= found.interval[1]
    assert held >= 31
    bent = 1.0 - 0.3 / (1 + np.exp(-(x - 25)))
    assert (
        "misses the curve"
        in power_law_forecast(x, bent, 80.0, Noise(0.002, 0.0, 0.1, 30.0)).refusal
    )
    assert (
        "too few" in power_law_forecast(x[:5], bent[:5], 80.0, Noise(0.002, 0.0, 0.1, 30.0)).refusal
    )


def test_still_improving_says_what_more_epochs_would_bring():
    curve = 0.3 + 0.9 * np.arange(1, 61) ** -0.4 + exponential(60, 0, 0, sd=0.002)
    found = diagnose_curves(made(curve, curve - 0.02))
    assert found.regime == "still_improving"
    assert "Another 20 epochs would bring the validation loss from" in str(found)
    assert found.forecast.interval[0] < 0.3 + 0.9 * 80**-0.4 < found.forecast.interval[1]


def test_long_curves_are_judged_in_blocks():
    curves = made(exponential(3000, time=200, turn=800, slope=1e-4))
    found = diagnose_curves(curves)
    assert found.regime == "overfit"
    assert abs(found.inflection_epoch - 800) < 100
    assert len(found.val_loss_smooth) == 3000


def test_simulated_runs_are_named_right_and_nothing_is_mistaken():
    right = {"converged": 0, "overfit": 0, "diverged": 0}
    alarms = 0
    for seed in range(25):
        for kind in right:
            truth = simulate(kind, 1000 + seed)
            found = diagnose_curves(truth.curves)
            right[kind] += found.regime == kind or not truth.clear
            alarms += kind == "converged" and found.inflection_epoch is not None
    assert alarms <= 1
    assert min(right.values()) >= 24


@pytest.mark.parametrize(
    ("fall", "gap", "regime"),
    [
        (4.0, 0.3, "variance"),
        (4.0, 0.0, "settled"),
        (0.0, 0.3, "both"),
        (0.0, 0.0, "bias"),
        (4.0, None, "unclear"),
    ],
)
def test_sizes_name_what_more_rows_would_bring(fall, gap, regime):
    sizes = torch.tensor([50, 100, 200, 400, 800])
    noise = torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    val = (0.6 + fall * sizes.double() ** -0.7)[:, None] + (
        0.003 if gap is not None else 0.3
    ) * noise
    found = SizeCurves(sizes, val * (1 - (gap or 0.0)), val)
    assert found.regime == regime, found.summary
    assert "800 rows" in found.summary


def test_noise_that_shrinks_with_the_rows_is_taken_as_it_is():
    sizes = torch.tensor([100, 200, 400, 800, 1600])
    noise = torch.randn(40, 5, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    truth = 0.4 + 3.0 * sizes.double() ** -0.6
    held, powers = [], []
    for shocks in noise:
        found = SizeCurves(
            sizes,
            truth[:, None].expand(5, 4),
            truth[:, None] + 0.6 * sizes.double()[:, None] ** -0.5 * shocks,
        )
        low, high = found.forecast.interval
        held.append(low <= 0.4 + 3.0 * 3200**-0.6 <= high)
        powers.append(found._seed_noise()[1])
    assert np.mean(powers) == pytest.approx(0.5, abs=0.1)
    assert np.mean(held) >= 0.78, "an interval of 90 %, less two standard errors over 40 data sets"


def test_adding_lets_the_later_recording_count():
    first, second = (
        made([3.0, 2.0, 1.0], [1, 1, 1], notes=("a",)),
        made([9.0, 8.0], [1, 1], notes=("b",)),
    )
    moved = LearningCurves(
        second.epoch + 2,
        second.train_loss,
        second.val_loss,
        {"acc": torch.tensor([0.5, 0.6])},
        notes=("b",),
    )
    joined = first + moved
    assert joined.val_loss.tolist() == [3.0, 2.0, 9.0, 8.0]
    assert joined.metrics["acc"].isnan().tolist() == [True, True, False, False]
    assert joined.notes == ("a", "b")


@pytest.mark.parametrize("top", [10, 15, 20, 30, 40])
@pytest.mark.parametrize("seed", range(3))
def test_a_rise_that_reaches_a_plateau_is_found_however_long_the_plateau(top, seed):
    rising = 0.5 + 0.02 * np.minimum(np.arange(40), top) + exponential(40, 0, 0.1, seed=seed)
    found = diagnose_curves(made(rising, exponential(40, floor=0.3)))
    assert found.regime == "overfit", found
    assert found.inflection_epoch <= 3


@pytest.mark.parametrize("end", [0.0, 0.1])
@pytest.mark.parametrize("sd", [0.0, 1e-4, 2e-3])
def test_a_straight_fall_that_ends_in_a_kink_is_no_rise(end, sd):
    """As a hinge loss falls that reaches zero; the trend misses the kink."""
    rng = np.random.default_rng(3)
    val = end + (1.05 - np.arange(60) / 21).clip(0) + sd * rng.normal(size=60)
    found = diagnose_curves(made(val, (1 - np.arange(60) / 20).clip(0) + end))
    # Noise about a loss of zero is large in relation to it.
    assert found.regime == ("too_noisy" if sd > 1e-3 and not end else "converged"), found
    assert found.inflection_epoch is None


def test_the_advice_on_a_divergence_speaks_of_nan_only_where_there_is_one():
    """The loss of a VAE rises by schedule while the weight of its KL term does."""
    rising = 0.5 + 0.02 * np.minimum(np.arange(40), 20) + exponential(40, 0, 0.1, sd=0.002)
    (found,) = training_converged_without_overfitting(made(rising, rising))
    assert found.severity is Severity.FAIL
    assert "NaN" not in found.remedy
    assert "grows on purpose" in found.remedy
    rising[30:] = np.nan
    (found,) = training_converged_without_overfitting(made(rising, rising))
    assert "became NaN" in found.remedy


@pytest.mark.parametrize("size", [1e150, 1e300, -1e300])
def test_a_loss_too_large_to_square_counts_as_infinite(size):
    train = exponential(30)
    train[20] = size
    found = diagnose_curves(made(exponential(30), train))
    assert any("infinite at epoch 20" in note for note in found.notes)
    train[20:] = size
    assert diagnose_curves(made(exponential(30), train)).regime == "diverged"


def test_bad_values_are_refused():
    for epoch in (math.nan, math.inf):
        with pytest.raises(InputError, match="finite epochs"):
            LearningCurves(torch.tensor([0.0, epoch]), torch.zeros(2), torch.zeros(2))
    with pytest.raises(InputError, match="2 followed by 1"):
        LearningCurves(torch.tensor([0, 2, 1]), torch.zeros(3), torch.zeros(3))
    with pytest.raises(InputError, match="3 values of each"):
        LearningCurves(torch.arange(3), torch.zeros(3), torch.zeros(2))
    with pytest.raises(InputError, match="1 followed by 1"):
        LearningCurves(torch.tensor([0, 1, 1]), torch.zeros(3), torch.zeros(3))
    with pytest.raises(InputError, match="tolerance"):
        diagnose_curves(made(exponential()), tolerance=0)
    with pytest.raises(InputError, match="alpha"):
        diagnose_curves(made(exponential()), alpha=0.5)


@pytest.mark.parametrize("epochs", [3, 12, 3000])
def test_plots_draw_on_the_given_axis(epochs):
    from gendebug_torch.checks.evidence import axes

    for evidence in (
        made(exponential(epochs)),
        diagnose_curves(made(exponential(epochs, turn=epochs // 2, slope=0.9 / epochs))),
    ):
        ax = axes()
        assert evidence.plot(ax) is ax
        assert ax.get_xlabel() == "epoch"


def test_the_command_reads_a_run_and_says_what_it_did(tmp_path, capsys):
    frame = pd.DataFrame(
        {
            "epoch": range(60),
            "train_loss": exponential(floor=0.36),
            "val_loss": exponential(turn=25, slope=0.004),
        }
    )
    frame.to_csv(tmp_path / "run.csv", index=False)
    assert main(["curves", str(tmp_path / "run.csv"), "--out", str(tmp_path / "out")]) == 1
    assert "Overfits after epoch" in " ".join(capsys.readouterr().out.split())
    found = json.loads((tmp_path / "out" / "findings.json").read_text())
    assert found[0]["cause"] == "overfitting"
    assert main(["curves", str(tmp_path / "absent.csv"), "--out", str(tmp_path / "out")]) == 2
    frame.rename(columns={"val_loss": "nll"}).to_csv(tmp_path / "run.csv", index=False)
    assert (
        main(
            [
                "curves",
                str(tmp_path / "run.csv"),
                "--val",
                "nll",
                "--fail-on",
                "never",
                "--out",
                str(tmp_path / "out"),
            ]
        )
        == 0
    )


@pytest.mark.parametrize("loss", ["squared", "absolute"])
def test_a_constant_prediction_is_what_a_regression_is_measured_by(loss):
    """The recorded loss is known from the residuals of the records."""
    generator = torch.Generator().manual_seed(0)
    y = 5 + 2 * torch.randn(2000, generator=generator, dtype=torch.float64)
    mean = {"squared": torch.square, "absolute": torch.abs}[loss]
    level = float(mean(y - y.mean()).mean())
    noise = 0.002 * level * torch.randn(60, generator=generator, dtype=torch.float64)
    curves = LearningCurves(torch.arange(60), level + noise, level + noise.flip(0))
    flat = Records(targets=y, logits=torch.full_like(y, 5.0), name="train")
    (found,) = training_converged_without_overfitting(curves, flat)
    assert found.numbers["regime"] == "underfit"
    # A loss that is not that of the records says nothing.
    other = Records(targets=10 * y, logits=torch.full_like(y, 50.0), name="train")
    (silent,) = training_converged_without_overfitting(curves, other)
    assert silent.numbers == training_converged_without_overfitting(curves)[0].numbers
