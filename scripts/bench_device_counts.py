"""Operations, waits of the host and bytes per call, counted on the simulated CUDA devices.

An operation is a launch (about 5 us of the host each), a wait a round trip (about 15 us), so that
their numbers say what small inputs cost on any GPU; both are exact, and no time is measured. They
do not grow with the rows within a batch; the bytes that operations read and write do, and say what
large inputs cost.

    python scripts/bench_device_counts.py [--lines]
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from tests.simulated_cuda.build import reason_against

    if reason := reason_against():
        sys.exit(f"Nothing is counted here: {reason}.")
    import tests.simulated_cuda as simulated
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import gendebug_torch as gd
from gendebug_torch.attribution import permutation_importance
from gendebug_torch.calibration import (
    calibration_sums,
    fit_affine,
    fit_temperature,
    reliability_bins,
)
from gendebug_torch.labels import label_issues
from gendebug_torch.shift import effect_sizes, ks_two_sample
from gendebug_torch.slices import find_slices


def rows(*shape, seed=0):
    """Normal numbers on the device."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).cuda()


def labels(n, k, seed=0):
    """Class ids on the device."""
    return torch.randint(k, (n,), generator=torch.Generator().manual_seed(seed)).cuda()


def informed(n, k):
    """Logits, and labels drawn from them."""
    logits = rows(n, k)
    drawn = (1.5 * logits).cpu().softmax(1)
    return logits, drawn.multinomial(1, generator=torch.Generator().manual_seed(1))[:, 0].cuda()


def network(d=12, k=4):
    """A perceptron on the device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(d, 32), nn.ReLU(), nn.Linear(32, k)).cuda()


def attribution(method, trust=False, **options):
    """A call that attributes 300 rows in three batches."""
    net, x = network(), rows(300, 12)
    return lambda: gd.attribute(net, x, method, batch_size=100, trust=trust, **options)


def permutation():
    """Permutation importance of 12 columns in 5 shuffles."""
    net, x = network(), rows(500, 12)
    data = gd.Records(x, labels(500, 4))
    return lambda: permutation_importance(net, data)


def recalibration():
    """`recalibrate` of a network on the device, from a loader of three batches."""
    logits, targets = informed(1500, 4)
    batches = [
        (x.cpu(), y.cpu()) for x, y in zip(logits.split(500), targets.split(500), strict=True)
    ]
    net = nn.Sequential(nn.Identity(), nn.Linear(4, 4)).cuda()
    with torch.no_grad():
        net[1].weight.copy_(3 * torch.eye(4))
        net[1].bias.zero_()
    return lambda: gd.recalibrate(net, batches)


def on(function, *arguments, **options):
    """A call with these arguments."""
    return lambda: function(*arguments, **options)


def slices():
    """A search over four columns of categories."""
    import pandas as pd

    generator = torch.Generator().manual_seed(0)
    frame = pd.DataFrame(
        torch.randint(5, (2000, 4), generator=generator).numpy(), columns=[*"abcd"]
    )
    return lambda: find_slices(frame, labels(2000, 4) == 0, device="cuda")


CASES = {
    "collect, three batches": lambda: on(gd.collect, network(), rows(300, 12), batch_size=100),
    "integrated gradients": lambda: attribution("integrated_gradients"),
    "integrated gradients, trust card": lambda: attribution("integrated_gradients", trust=True),
    "KernelSHAP": lambda: attribution("kernel_shap", samples=64),
    "permutation importance": permutation,
    "calibration sums": lambda: on(calibration_sums, *informed(2000, 10)),
    "reliability bins": lambda: on(reliability_bins, *informed(2000, 10)),
    "fit temperature": lambda: on(fit_temperature, *informed(2000, 10)),
    "fit temperature, 200,000 rows": lambda: on(fit_temperature, *informed(200_000, 10)),
    "fit vector scaling": lambda: on(fit_affine, *informed(2000, 4)),
    "recalibrate from a loader": recalibration,
    "KS, 10 columns": lambda: on(ks_two_sample, rows(2000, 10), rows(500, 10, seed=1)),
    "KS, 10 columns, p-values": lambda: (
        lambda: ks_two_sample(rows(2000, 10), rows(500, 10, seed=1)).adjusted
    ),
    "effect sizes, 10 columns": lambda: on(effect_sizes, rows(2000, 10), rows(500, 10, seed=1)),
    "label issues, 100 classes": lambda: on(
        label_issues, rows(2000, 100).softmax(1), labels(2000, 100)
    ),
    "slices, 4 columns": slices,
}


class _Bytes(TorchDispatchMode):
    """Bytes that operations read and write, views apart."""

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        made = function(*args, **kwargs)
        if not function.is_view:
            read = [value for name, value in kwargs.items() if name != "out"]
            tensors = [part for part in tree_leaves((args, read, made)) if torch.is_tensor(part)]
            self.total += sum(part.numel() * part.element_size() for part in tensors)
        return made


def bytes_of(call):
    """Bytes that the operations of a call read and write."""
    with _Bytes() as counted:
        call()
    return counted.total


def main():
    """Print operations, waits, copies and bytes per call, with `--lines` where it waits."""
    print(f"{'call':36}{'operations':>11}{'waits':>7}{'copies':>8}{'MB':>8}")
    for name, case in CASES.items():
        call = case()
        with simulated.counts() as counted:
            call()
        operations, waits = counted.total()
        row = f"{name:36}{operations:11}{waits:7}{counted.copies.total():8}"
        print(f"{row}{bytes_of(call) / 1e6:8.1f}")
        if "--lines" in sys.argv:
            for (operation, line), times in counted.waits.most_common(12):
                print(f"    {times:5} x {operation}  {line}")


if __name__ == "__main__":
    main()
