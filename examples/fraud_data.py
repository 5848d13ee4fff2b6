"""Card transactions: half a year and one production week, simulated, or a foreign table.

Every table has the columns `time` (seconds), `card`, `merchant`, `amount`, `fraud`, `cause` and
`label_time` (when the fraud became known). `cause` tells the story afterwards; no model is fed it.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

DAY = 86_400.0
HISTORY_DAYS, TRAIN_DAYS, JUNE_DAYS, WEEK_DAYS = 31, 151, 30, 7
EPOCH = pd.Timestamp("2023-12-01")


def simulate(seed: int = 0, *, rows: int = 200_000, shift: bool = True) -> pd.DataFrame:
    """Transactions from December (history only) through the first week of July, in order of time.

    Args:
        seed: of everything.
        rows: about how many transactions from January through June.
        shift: whether merchants without history open in the production week.
    """
    rng = np.random.default_rng(seed)
    days = HISTORY_DAYS + TRAIN_DAYS + JUNE_DAYS + WEEK_DAYS
    per_day = rows / (TRAIN_DAYS + JUNE_DAYS)
    cards, merchants = max(200, rows // 50), max(60, rows // 330)
    level = rng.normal(3.2, 0.9, merchants)
    popularity = rng.gamma(1.2, size=merchants) + 0.3
    legit = _legitimate(rng, int(per_day * days), days, cards, popularity / popularity.sum(), level)
    parts = [legit, *_frauds(rng, len(legit), days, cards, merchants, level)]
    if shift:
        parts.append(
            _new_merchants(
                rng, int(0.8 * per_day * WEEK_DAYS), days - WEEK_DAYS, cards, merchants, level
            )
        )
    table = pd.concat(parts, ignore_index=True).sort_values(
        "time", kind="stable", ignore_index=True
    )
    delay = rng.lognormal(np.log(10.0), 0.6, len(table)) * DAY
    return table.assign(label_time=table["time"] + np.where(table["fraud"] == 1, delay, 0.0))


def _legitimate(rng, n, days, cards, popularity, level):
    merchant = rng.choice(len(popularity), n, p=popularity)
    amount = np.exp(level[merchant] + rng.normal(0, 0.6, n))
    activity = rng.gamma(1.5, size=cards)
    card = rng.choice(cards, n, p=activity / activity.sum())
    return _table(_times(rng, n, days), card, merchant, amount, 0, "legitimate")


def _times(rng, n, days, start=0.0):
    """Uniform over days, fewer at night."""
    hour = np.concatenate([rng.normal(13.5, 4.0, n - n // 10), rng.uniform(0, 24, n // 10)]) % 24
    return (start + rng.integers(0, days, n)) * DAY + rng.permutation(hour) * 3600


def _frauds(rng, legitimate, days, cards, merchants, level):
    """Frauds of three kinds.

    Stolen cards (bursts of large amounts), card testing (small amounts at night), colluding
    merchants.
    """
    bursts = int(legitimate * 0.0016)
    size = rng.integers(3, 9, bursts)
    first = rng.uniform(0, days, bursts) * DAY
    stolen = np.repeat(np.arange(bursts), size)
    merchant = rng.integers(0, merchants, len(stolen))
    amount = np.exp(level[merchant] + rng.normal(1.3, 0.35, len(stolen)))
    time = first[stolen] + rng.exponential(1.5 * 3600, len(stolen)).clip(max=6 * 3600)
    yield _table(time, rng.integers(0, cards, bursts)[stolen], merchant, amount, 1, "stolen card")

    tests = int(legitimate * 0.002)
    # Card testing grows through the half year: the world drifts a little even when nothing breaks.
    day = np.floor(days * rng.beta(1.6, 1.0, tests))
    cheap = np.argsort(level)[: max(5, merchants // 20)]
    amount = rng.uniform(0.5, 3.0, tests)
    time = day * DAY + rng.uniform(1, 5, tests) * 3600
    yield _table(
        time, rng.integers(0, cards, tests), rng.choice(cheap, tests), amount, 1, "card testing"
    )

    schemes, each = 12, max(5, int(legitimate * 0.002 / 12))
    corrupt = np.repeat(rng.choice(merchants, schemes), each)
    day = np.repeat(rng.uniform(0, days - 14, schemes), each) + rng.uniform(0, 14, schemes * each)
    amount = np.exp(level[corrupt] + rng.normal(1.6, 0.3, schemes * each))
    yield _table(
        day * DAY, rng.integers(0, cards, schemes * each), corrupt, amount, 1, "colluding merchant"
    )


def _new_merchants(rng, n, start, cards, merchants, level):
    """Honest trade at merchants that nobody has seen before, most of them for the first time."""
    shop = rng.integers(0, n, n)
    own = rng.choice(level, n)
    amount = np.exp(own[shop] + rng.normal(0, 0.6, n))
    return _table(
        _times(rng, n, WEEK_DAYS, start),
        rng.integers(0, cards, n),
        merchants + shop,
        amount,
        0,
        "legitimate",
    )


def _table(time, card, merchant, amount, fraud, cause):
    return pd.DataFrame(
        {
            "time": time,
            "card": card,
            "merchant": merchant,
            "amount": np.round(amount, 2),
            "fraud": fraud,
            "cause": cause,
        }
    )


def simulated_periods(table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Row masks: training January to May, validation June, production the first week of July."""
    return _periods(table, np.cumsum([HISTORY_DAYS, TRAIN_DAYS, JUNE_DAYS, WEEK_DAYS]) * DAY)


def read_foreign(path: str | Path) -> pd.DataFrame:
    """Somebody else's transactions, from one CSV or Parquet file or a directory of them.

    Known column names are those of the Fraud Detection Handbook's simulator (TX_DATETIME,
    CUSTOMER_ID, TERMINAL_ID, TX_AMOUNT, TX_FRAUD); labels are taken to arrive a week late.
    """
    source = Path(path)
    files = sorted(
        file
        for file in ([source] if source.is_file() else source.iterdir())
        if file.suffix in (".csv", ".parquet")
    )
    if not files:
        raise SystemExit(f"--data {path}: no .csv or .parquet file is there")
    wanted = {
        "TX_DATETIME": "time",
        "CUSTOMER_ID": "card",
        "TERMINAL_ID": "merchant",
        "TX_AMOUNT": "amount",
        "TX_FRAUD": "fraud",
    }
    table = pd.concat(
        [pd.read_parquet(f) if f.suffix == ".parquet" else pd.read_csv(f) for f in files],
        ignore_index=True,
    )
    if missing := sorted(set(wanted) - set(table)):
        raise SystemExit(
            f"--data {path}: the table lacks {', '.join(missing)}; it has "
            f"{', '.join(map(str, table.columns))}"
        )
    cause = table["TX_FRAUD_SCENARIO"].astype(str) if "TX_FRAUD_SCENARIO" in table else "unknown"
    table = table[list(wanted)].rename(columns=wanted).assign(cause=cause)
    moment = pd.to_datetime(table["time"])
    table["time"] = (moment - moment.min().normalize()).dt.total_seconds()
    table = table.sort_values("time", kind="stable", ignore_index=True)
    return table.assign(label_time=table["time"] + 7 * DAY)


def foreign_periods(table: pd.DataFrame) -> dict[str, np.ndarray]:
    """The last week is production, the 30 days before validation, the rest training.

    Training leaves out a first month of history.
    """
    end = (np.floor(table["time"].max() / DAY) + 1) * DAY
    return _periods(table, [min(31 * DAY, 0.2 * end), end - 37 * DAY, end - 7 * DAY, end])


def _periods(table: pd.DataFrame, cuts: Sequence[float]) -> dict[str, np.ndarray]:
    time = table["time"].to_numpy()
    spans = zip(("train", "validation", "production"), itertools.pairwise(cuts), strict=True)
    return {name: (time >= low) & (time < high) for name, (low, high) in spans}
