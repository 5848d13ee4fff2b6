"""Scores of training rows for single queries by kronfluence, TRAK's package and dattri.

They are no dependencies: install them beside, e.g. `pip install --target peers kronfluence traker
dattri`, and put that folder on PYTHONPATH.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

States = Sequence[dict[str, Tensor]]
Rows = tuple[Tensor, Tensor]


def margin_sum(logits: Tensor, classes: Tensor) -> Tensor:
    """Sum of the log odds of these classes."""
    own = logits.gather(1, classes[:, None])[:, 0]
    rest = logits.scatter(1, classes[:, None], -torch.inf).logsumexp(1)
    return (own - rest).sum()


def ekfac(
    network: nn.Module, states: States, train: Rows, queries: Rows, damping: float | None = 1e-8
) -> Tensor:
    """`[n, q]` by kronfluence, EK-FAC, averaged over states.

    Args:
        network: network.
        states: weights of each moment that is averaged over.
        train: inputs and labels.
        queries: inputs and classes whose margins are explained.
        damping: what is added to the eigenvalues, by default that of the package; None adds a tenth
            of their mean, as in the paper.
    """
    scores = []
    for state in states:
        one = copy.deepcopy(network)
        one.load_state_dict(state)
        scores.append(_ekfac_once(one, train, queries, damping))
    return torch.stack(scores).mean(0)


def _ekfac_once(network: nn.Module, train: Rows, queries: Rows, damping: float | None) -> Tensor:
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.task import Task

    class Classes(Task):
        def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
            logits, labels = model(batch[0]), batch[1]
            if sample:
                with torch.no_grad():
                    labels = torch.multinomial(logits.softmax(1), 1)[:, 0]
            return cross_entropy(logits, labels, reduction="sum")

        def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
            return margin_sum(model(batch[0]), batch[1])

        def get_influence_tracked_modules(self) -> None:
            return None

    torch.manual_seed(0)
    task, data = Classes(), TensorDataset(*train)
    watched = prepare_model(network, task)
    with tempfile.TemporaryDirectory() as folder:
        options = {"disable_tqdm": True, "cpu": not torch.cuda.is_available()}
        analyzer = Analyzer("peer", watched, task, output_dir=folder, **options)
        batch = {"per_device_batch_size": 256, "overwrite_output_dir": True}
        arguments = FactorArguments(strategy="ekfac")
        analyzer.fit_all_factors("f", dataset=data, factor_args=arguments, **batch)
        analyzer.compute_pairwise_scores(
            scores_name="s",
            factors_name="f",
            score_args=ScoreArguments(damping_factor=damping),
            query_dataset=TensorDataset(*queries),
            train_dataset=data,
            per_device_query_batch_size=len(queries[1]),
            per_device_train_batch_size=256,
            overwrite_output_dir=True,
        )
        scores: Tensor = analyzer.load_pairwise_scores("s")["all_modules"]
    # The package says how far a row lowers the measured quantity.
    return -scores.T.float().cpu()


def grouped_scores(network: nn.Module, train: Rows, errors: Rows) -> Iterator[tuple[str, Tensor]]:
    """Names of peers and their mean scores `[n]` for errors, by inputs and the answers to them."""
    states = [network.state_dict()]
    yield "kronfluence", ekfac(network, states, train, errors, None).mean(1)
    yield "TRAK, 512 values", trak(network, states, train, errors, 512).mean(1)


def trak(network: nn.Module, states: States, train: Rows, queries: Rows, width: int) -> Tensor:
    """`[n, q]` by TRAK's package, averaged over states of networks.

    Args:
        network: network.
        states: weights of each network that is averaged over.
        train: inputs and labels.
        queries: inputs and classes whose margins are explained.
        width: length of the projections.
    """
    from trak import TRAKer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        tracer = TRAKer(
            model=copy.deepcopy(network),
            task="image_classification",
            train_set_size=len(train[1]),
            save_dir=folder,
            device=device,
            proj_dim=width,
            use_half_precision=False,
            logging_level=40,
        )
        for number, state in enumerate(states):
            tracer.load_checkpoint(state, model_id=number)
            for batch in DataLoader(TensorDataset(*train), 500):
                tracer.featurize(batch=batch, num_samples=len(batch[0]))
        tracer.finalize_features()
        for number, state in enumerate(states):
            tracer.start_scoring_checkpoint("q", state, number, num_targets=len(queries[1]))
            for batch in DataLoader(TensorDataset(*queries), 50):
                tracer.score(batch=batch, num_samples=len(batch[0]))
        return torch.as_tensor(tracer.finalize_scores("q")).float().clone()
