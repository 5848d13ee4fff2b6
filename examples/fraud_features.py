"""Features of card transactions, vectorised; each row sees only what was known when it happened."""

import numpy as np
import pandas as pd

DAY = 86_400.0
PERCENTILE = "transaction_amount_percentile"


def build_features(table: pd.DataFrame) -> pd.DataFrame:
    """One row of features per transaction, in the order of the table (which is that of time).

    `transaction_amount_percentile` is cumulative: the rank of the amount among all transactions of
    its merchant so far, this one included, as a share of their number. It is what breaks.
    """
    time, amount = table["time"].to_numpy(), table["amount"].to_numpy()
    card, merchant = table["card"].to_numpy(), table["merchant"].to_numpy()
    hour = time % DAY / DAY * 2 * np.pi
    features = {
        "log_amount": np.log1p(amount),
        "hour_sin": np.sin(hour),
        "hour_cos": np.cos(hour),
        "weekend": (time // DAY % 7 >= 5).astype(float),
        "log_seconds_since_last": np.log1p(seconds_since_last(card, time)),
    }
    for days in (1, 7, 30):
        count, mean = window(card, time, amount, days * DAY)
        features[f"card_count_{days}d"] = np.log1p(count)
        if days > 1:
            features[f"card_amount_ratio_{days}d"] = np.log((amount + 1) / (mean + 1))
    features["merchant_risk_30d"] = reported_share(table, 30 * DAY)
    features[PERCENTILE] = cumulative_percentile(merchant, amount)
    return pd.DataFrame(features)


def history(table: pd.DataFrame) -> np.ndarray:
    """How many earlier transactions the merchant of each row has."""
    return table.groupby("merchant").cumcount().to_numpy()


def cumulative_percentile(group: np.ndarray, amount: np.ndarray) -> np.ndarray:
    """Rank of each amount within its group so far, itself included, over their number.

    Rows are in the order of time.
    """
    earlier = count_not_larger_before(group, amount)
    number = pd.Series(group).groupby(group).cumcount().to_numpy()
    return (earlier + 1) / (number + 1)


def count_not_larger_before(group: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Number of earlier rows of the group with a value not larger, for each row.

    Cost: n log n, no loop over rows.

    Rows are laid out by group and time and walked in order of (group, value) while a wavelet tree
    over the positions is descended: at each bit, rows of the left half that come first are counted
    for the right half.
    """
    n = len(group)
    by_group = np.argsort(group, kind="stable")
    ordered_group, ordered_value = group[by_group], value[by_group]
    walk = np.lexsort((np.arange(n), ordered_value, ordered_group))
    counted = np.zeros(n, dtype=np.int64)
    for bit in range(max(1, n - 1).bit_length() - 1, -1, -1):
        left = walk >> bit & 1 == 0
        before = np.cumsum(left) - left
        block = walk >> (bit + 1)
        first = np.flatnonzero(np.r_[True, block[1:] != block[:-1]])
        start = np.repeat(first, np.diff(np.r_[first, n]))
        within = before - before[start]
        counted[walk[~left]] += within[~left]
        lefts = np.repeat(np.add.reduceat(left, first), np.diff(np.r_[first, n]))
        place = np.where(left, start + within, start + lefts + (np.arange(n) - start - within))
        following = np.empty_like(walk)
        following[place] = walk
        walk = following
    starts = (
        np.flatnonzero(np.r_[True, ordered_group[1:] != ordered_group[:-1]])
        if n
        else np.empty(0, dtype=np.int64)
    )
    # Everything of smaller groups was counted too: exactly the rows before the group begins.
    counted -= np.repeat(starts, np.diff(np.r_[starts, n]))
    out = np.empty(n, dtype=np.int64)
    out[by_group] = counted
    return out


def seconds_since_last(group: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Seconds since the group's previous row; 30 days where there is none."""
    return pd.Series(time).groupby(group).diff().fillna(30 * DAY).to_numpy()


def window(
    group: np.ndarray, time: np.ndarray, value: np.ndarray, length: float
) -> tuple[np.ndarray, np.ndarray]:
    """Number and mean of the group's values in the last `length` seconds, this row included."""
    order = np.lexsort((time, group))
    key = _key(group[order], time[order], time)
    first = np.searchsorted(key, key - length, side="right")
    first = np.maximum(first, np.searchsorted(group[order], group[order], side="left"))
    sums = np.r_[0.0, np.cumsum(value[order])]
    count = np.arange(1, len(order) + 1) - first
    mean = (sums[1:] - sums[first]) / count
    result = np.empty(len(order)), np.empty(len(order))
    result[0][order], result[1][order] = count, mean
    return result


def reported_share(table: pd.DataFrame, length: float) -> np.ndarray:
    """Frauds reported at the merchant in the last `length` seconds, per transaction there.

    Nothing from the future is used.
    """
    time, merchant = table["time"].to_numpy(), table["merchant"].to_numpy()
    count, _ = window(merchant, time, time, length)
    fraud = table[table["fraud"] == 1]
    reported = np.sort(_key(fraud["merchant"].to_numpy(), fraud["label_time"].to_numpy(), time))
    now = _key(merchant, time, time)
    found = np.searchsorted(reported, now) - np.searchsorted(reported, now - length)
    return found / (count + 5.0)


def _key(group: np.ndarray, time: np.ndarray, span: np.ndarray) -> np.ndarray:
    """One sortable number for (group, time): groups lie farther apart than any window."""
    return group.astype(np.float64) * (span.max() + 400 * DAY) + time
