"""Peers that test drift column by column, timed on two npy files.

Alone, so that it runs where only a peer is installed.
"""

import sys
import time

import numpy as np
import pandas as pd


def evidently(reference: pd.DataFrame, live: pd.DataFrame) -> int:
    """Columns that evidently's preset calls drifted, by Kolmogorov-Smirnov."""
    from evidently import Report
    from evidently.presets import DataDriftPreset

    told = Report([DataDriftPreset(num_method="ks")]).run(live, reference).dict()
    return int(told["metrics"][0]["value"]["count"])


def alibi_detect(reference: pd.DataFrame, live: pd.DataFrame) -> int:
    """Columns under the Bonferroni threshold of alibi-detect's KSDrift."""
    from alibi_detect.cd import KSDrift

    told = KSDrift(reference.to_numpy(), p_val=0.05).predict(live.to_numpy())["data"]
    return int((told["p_val"] < told["threshold"]).sum())


def deepchecks(reference: pd.DataFrame, live: pd.DataFrame) -> int:
    """Columns beyond deepchecks' default threshold of the distance."""
    from deepchecks.tabular import Dataset
    from deepchecks.tabular.checks import FeatureDrift

    told = (
        FeatureDrift(numerical_drift_method="KS")
        .run(Dataset(reference, cat_features=[]), Dataset(live, cat_features=[]))
        .value
    )
    return sum(column["Drift score"] > 0.2 for column in told.values())


def nannyml(reference: pd.DataFrame, live: pd.DataFrame) -> int:
    """Columns that nannyml's univariate defaults alarm on."""
    from nannyml import UnivariateDriftCalculator

    calculator = UnivariateDriftCalculator(column_names=list(reference), chunk_number=1)
    told = calculator.fit(reference).calculate(live).filter(period="analysis").to_df()
    return int(told.xs("alert", axis=1, level=2).any().sum())


PEERS = {
    "evidently": evidently,
    "alibi_detect": alibi_detect,
    "deepchecks": deepchecks,
    "nannyml": nannyml,
}


if __name__ == "__main__":
    name, *paths = sys.argv[1:]
    frames = [
        pd.DataFrame(rows, columns=[f"c{i}" for i in range(rows.shape[1])])
        for rows in map(np.load, paths)
    ]
    started = time.perf_counter()
    found = PEERS[name](*frames)
    print(time.perf_counter() - started, found)
