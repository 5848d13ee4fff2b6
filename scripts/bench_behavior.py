"""Behavioral suites: a fraud network with swapped columns, and CheckList's sentiment suite."""

from __future__ import annotations

import argparse
import importlib
import itertools
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _timing import medians
from torch import nn

from gendebug_torch.behavior import Suite, load_suite, run_suite
from gendebug_torch.behavior.audit.explain import explained_run
from gendebug_torch.behavior.audit.redundancy import redundancy

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "examples"))


class Swapped(nn.Module):
    """A network that is fed two of its columns in the wrong order."""

    def __init__(self, network: nn.Module, a: int, b: int, width: int) -> None:
        super().__init__()
        self.network, self.order = network, list(range(width))
        self.order[a], self.order[b] = b, a

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The network's logits on the wrongly ordered columns."""
        return self.network(x[:, self.order])


def fraud() -> None:
    """Twenty cases on a trained fraud network, and on it with each pair of columns swapped."""
    from fraud_serving import network

    path = ROOT / "examples" / "fraud.behavior.yaml"
    served, suite = network(), load_suite(path)
    run = run_suite(suite, served)
    works = {"read": lambda: load_suite(path), "run": lambda: run_suite(suite, served)}
    took = medians(works, 5)
    print(f"| read {len(suite.cases)} cases from YAML | {1e3 * took['read']:.0f} ms |")
    print(f"| run {len(suite.cases)} cases, network loaded | {1e3 * took['run']:.1f} ms |")
    print(f"| fail on the trained network | {len(run.failures)} of {len(run.evaluated)} |")
    width = len(suite.features)
    pairs = list(itertools.combinations(range(width), 2))
    runs = {(a, b): explained_run(suite, Swapped(served, a, b, width)) for a, b in pairs}
    caught = sum(bool(run.failures) for run in runs.values())
    explained = {pair: run.explanation.change for pair, run in runs.items() if run.explanation}
    right = sum(
        change == f"{suite.features[a]} and {suite.features[b]} swapped"
        for (a, b), change in explained.items()
    )
    print(f"| swapped pairs of columns that the suite detects | {caught} of {len(pairs)} |")
    print(f"| pairs explained, rightly | {right} of {len(explained)} |")
    works = {
        "swap": lambda: explained_run(suite, Swapped(served, 0, 1, width)),
        "redundancy": lambda: redundancy(suite, served),
    }
    took = medians(works, 3)
    print(f"| find the swap among all faults | {1e3 * took['swap']:.0f} ms |")
    found = redundancy(suite, served)
    needed = (
        f"{len(found.cover)} of {len(found.ids)} cases detect all "
        f"{int(found.detected.any(0).sum())} of {len(found.faults)} faults"
    )
    print(f"| redundancy | {needed}, {1e3 * took['redundancy']:.0f} ms |")


def sentiment(data: Path, every: int) -> None:
    """CheckList's cases on a small SST-2 model, ours and CheckList's own runner interleaved."""
    from sentiment_checklist import accuracy, load_checklist, train_sentiment

    predict = train_sentiment(data / "sst2")
    suite = load_checklist(data / "checklist_sentiment" / "sentiment_suite.jsonl.gz", every=every)
    run = run_suite(suite, predict)
    rows = [row for case in suite.cases for row in case.inputs]
    took = medians({"suite": lambda: run_suite(suite, predict), "model": lambda: predict(rows)}, 3)
    time = f"{took['suite']:.1f} s, of which the model {took['model']:.1f} s"
    print(f"| accuracy of the model on SST-2 dev | {accuracy(predict, data / 'sst2'):.3f} |")
    print(f"| CheckList: {len(suite.cases):,} cases, {len(rows):,} texts | {time} |")
    for row in run.table().itertuples(index=False):
        print(
            f"| fail: {row.capability} | {row.rate:.1%} ({row.low:.1%} to {row.high:.1%}) of "
            f"{row.cases:,} |"
        )
    beside_checklist(suite, predict)


def beside_checklist(suite: Suite, predict: Callable[[list[dict[str, Any]]], torch.Tensor]) -> None:
    """The pairwise cases through CheckList itself: same verdicts, and the time of each."""
    # Its viewer wants a notebook; the tests do without.
    viewer = types.ModuleType("checklist.viewer.test_summarizer")
    viewer.TestSummarizer = None  # type: ignore[attr-defined]
    sys.modules.setdefault("checklist.viewer.test_summarizer", viewer)
    try:
        library = importlib.import_module("checklist.test_types")
        expect = importlib.import_module("checklist.expect").Expect
    except ImportError as error:
        print(f"| CheckList itself | not installed ({error}) |")
        return

    def softmax(texts: list[str]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        score = predict([{"text": text} for text in texts]).double().numpy()
        conf = np.stack([1 - score, score], 1)
        return conf.argmax(1), conf

    groups: dict[str, list[Any]] = {}
    for case in suite.cases:
        if case.expect is not None and case.expect.word in (
            "same_class",
            "not_lower",
            "not_higher",
        ):
            groups.setdefault(case.tags[0], []).append(case)
    ours_time = theirs_time = 0.0
    equal = total = 0
    for cases in groups.values():
        word, meant = cases[0].expect.word, cases[0].of
        part = Suite(tuple(cases), classes=suite.classes)
        label = None if meant == "predicted" else meant
        direction = (
            expect.inv(0.1)
            if word == "same_class"
            else expect.monotonic(label, word == "not_lower", 0.1)
        )
        test = library.DIR([[row["text"] for row in case.inputs] for case in cases], direction)
        started = time.perf_counter()
        test.run(softmax, verbose=False)
        failed = set(test.fail_idxs().tolist())
        theirs_time += time.perf_counter() - started
        started = time.perf_counter()
        run = run_suite(part, predict)
        ours_time += time.perf_counter() - started
        equal += sum(
            (number in failed) == result.is_failure for number, result in enumerate(run.results)
        )
        total += len(cases)
    print(f"| the same verdict as CheckList | {equal:,} of {total:,} INV and DIR cases |")
    print(
        f"| time, model included | ours {ours_time:.2f} s, CheckList {theirs_time:.2f} s, ratio "
        f"{theirs_time / ours_time:.2f} |"
    )


def main() -> None:
    """Print the rows of a markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--every", type=int, default=1)
    args = parser.parse_args()
    print("| behavior | measured |\n| --- | --- |")
    fraud()
    if args.data.is_dir():
        sentiment(args.data, args.every)
    else:
        print(f"| CheckList's sentiment suite | no data at {args.data} |")


if __name__ == "__main__":
    main()
