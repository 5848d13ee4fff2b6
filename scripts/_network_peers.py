"""What other tools say of the trainings that `bench_network` plants; they record, and do not judge.

pip install cockpit-for-pytorch torchinstruments "setuptools<80"

The rules of SageMaker Debugger cannot be run: `smdebug` 1.0.34 holds their base class alone, and
asks for protobuf below 3.21; the rules themselves run inside AWS. Accumulation, clipping, schedules
and evaluations of the planted trainings are left out here.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import tempfile
import warnings
from collections.abc import Callable

import torch
from _network_faults import Training


def cockpit(case: Training, steps: int) -> None:
    """Loss, gradient norm, size of the update and distance, the quantities without an extension."""
    from cockpit import Cockpit, quantities
    from cockpit.utils.schedules import linear

    kinds = (quantities.Loss, quantities.GradNorm, quantities.UpdateSize, quantities.Distance)
    trained = [p for p in case.model.parameters() if p.requires_grad]
    watched = Cockpit(trained, [kind(track_schedule=linear(10)) for kind in kinds])
    for step in range(steps):
        x, y = case.on_step(step + 1, *next(case.data))
        loss = case.loss(case.model(x), y)
        info = {"batch_size": len(x), "optimizer": case.optimizer, "loss": loss}
        with watched(step, info=info):
            loss.backward(create_graph=watched.create_graph(step))
        case.optimizer.step()
        case.optimizer.zero_grad()


def torchinstruments(case: Training, steps: int) -> None:
    """Statistics of outputs and their gradients at every twentieth call."""
    from torchinstruments import EveryNForwardsSampler, inject_observer, remove_observer

    with tempfile.TemporaryDirectory() as folder:
        inject_observer(case.model, sampler=EveryNForwardsSampler(20), output_dir=folder)
        try:
            for step in range(steps):
                x, y = case.on_step(step + 1, *next(case.data))
                case.loss(case.model(x), y).backward()
                case.optimizer.step()
                case.optimizer.zero_grad()
        finally:
            remove_observer(case.model)


def peers(
    cases: dict[str, Callable[[str, int], Training]], first: int, seeds: int, steps: int
) -> None:
    """A line per tool: trainings of MLPs that it followed, and of which it said anything at all."""
    print("| tool | followed | said anything | what |\n| --- | --- | --- | --- |")
    for tool in (cockpit, torchinstruments):
        followed, said, words = 0, 0, set[str]()
        runs = list(itertools.product(cases.values(), range(first, first + seeds)))
        for build, seed in runs:
            torch.manual_seed(seed)
            text = io.StringIO()
            try:
                with (
                    contextlib.redirect_stdout(text),
                    contextlib.redirect_stderr(text),
                    warnings.catch_warnings(),
                ):
                    warnings.simplefilter("ignore")
                    tool(build("MLP", seed), steps)
                followed += 1
            except Exception as error:
                words.add(f"fails: {type(error).__name__} {error}"[:60])
            said += bool(text.getvalue().strip())
            words.update(line[:60] for line in text.getvalue().strip().splitlines()[:1])
        some = "; ".join(sorted(words)[:3])
        print(f"| {tool.__name__} | {followed}/{len(runs)} | {said}/{len(runs)} | {some} |")
