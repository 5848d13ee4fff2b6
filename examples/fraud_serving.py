"""A fraud network as it is served: raw quantities of one card transaction in, one logit out.

`fraud.behavior.yaml` says what it must do: gendebug behave fraud.behavior.yaml --model
fraud_serving:network
"""

from functools import cache

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

COLUMNS = (
    "amount",
    "mean_amount_30d",
    "hour",
    "abroad",
    "minutes_since_last",
    "count_24h",
    "account_age_days",
    "merchant_risk",
)


class ServedFraudNet(nn.Module):
    """The network with the transformations of its features inside.

    So serving cannot compute them another way.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(9, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """`[n, 8]` raw quantities in the order of `COLUMNS` to `[n]` logits."""
        amount, mean, hour, abroad, minutes, count, age, risk = x.unbind(1)
        angle = hour / 24 * 2 * torch.pi
        columns = [
            amount.log1p() / 2 - 2,
            (amount + 1).log() - (mean + 1).log(),
            angle.sin(),
            angle.cos(),
            abroad,
            minutes.log1p() / 3 - 2,
            count.log1p(),
            age.log1p() / 2 - 3,
            5 * risk,
        ]
        return self.body(torch.stack(columns, 1))[:, 0]


def transactions(rows: int, seed: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Simulated transactions, and whether each was fraud.

    Frauds have amounts out of proportion, at night, abroad, in bursts.
    """
    rng = np.random.default_rng(seed)
    mean = rng.lognormal(3.4, 0.6, rows)
    count = rng.poisson(1.2, rows) + rng.poisson(6, rows) * (rng.random(rows) < 0.1)
    table = pd.DataFrame(
        {
            "amount": mean * rng.lognormal(0, 0.9, rows),
            "mean_amount_30d": mean,
            "hour": np.where(
                rng.random(rows) < 0.85, rng.normal(14, 4, rows), rng.uniform(0, 24, rows)
            )
            % 24,
            "abroad": (rng.random(rows) < 0.08).astype(float),
            "minutes_since_last": rng.exponential(1400 / (1 + count)),
            "count_24h": count.astype(float),
            "account_age_days": rng.exponential(700, rows),
            "merchant_risk": rng.beta(1, 40, rows),
        },
        columns=list(COLUMNS),
    )
    night = (table["hour"] < 6).to_numpy()
    burst = ((table["count_24h"] > 4) & (table["minutes_since_last"] < 60)).to_numpy()
    ratio = np.log((table["amount"] + 1) / (table["mean_amount_30d"] + 1))
    logit = (
        -5.5
        + 1.6 * ratio
        + 1.3 * night
        + 1.6 * table["abroad"]
        + 3.0 * burst
        + 1.2 * (table["account_age_days"] < 30)
    )
    logit = (logit + 25 * table["merchant_risk"]).to_numpy()
    return table, (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.int64)


@cache
def network(rows: int = 50_000, steps: int = 600, seed: int = 0) -> ServedFraudNet:
    """The network, trained in seconds on simulated transactions.

    A real one would load its weights here.
    """
    table, fraud = transactions(rows, seed)
    x, y = (
        torch.tensor(table.to_numpy(), dtype=torch.float32),
        torch.tensor(fraud, dtype=torch.float32),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        served = ServedFraudNet()
        optimizer = torch.optim.Adam(served.parameters(), 5e-3)
        for _ in range(steps):
            batch = torch.randint(rows, (2048,))
            optimizer.zero_grad()
            binary_cross_entropy_with_logits(served(x[batch]), y[batch]).backward()
            optimizer.step()
    return served.eval()
