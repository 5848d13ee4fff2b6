"""Attributions written out literally from the papers: one row, one point, one subset at a time."""

import itertools
import math

import torch


def integrated_gradients(f, x, baseline, steps=1000):
    """Sundararajan, Taly and Yan (2017), equation 3, by the midpoint rule; one row."""
    total = torch.zeros_like(x)
    for step in range(steps):
        point = (baseline + (step + 0.5) / steps * (x - baseline)).requires_grad_()
        total += torch.autograd.grad(f(point[None])[0], point)[0]
    return (x - baseline) * total / steps


def shapley_values(f, x, baseline):
    """Shapley (1953): the mean over subsets of what a player adds, an absent one at the baseline;
    one row."""
    d = len(x)

    def value(present):
        mask = torch.tensor([i in present for i in range(d)])
        return float(f(torch.where(mask, x, baseline)[None])[0])

    values = []
    for i in range(d):
        others = [j for j in range(d) if j != i]
        total = 0.0
        for size in range(d):
            weight = math.factorial(size) * math.factorial(d - size - 1) / math.factorial(d)
            total += weight * sum(
                value({*s, i}) - value(set(s)) for s in itertools.combinations(others, size)
            )
        values.append(total)
    return torch.tensor(values, dtype=torch.float64)


def permutation_rise(loss, inputs, targets, column, order):
    """Breiman (2001): rise of the mean loss when one column is put in another order."""
    changed = inputs.clone()
    for row, other in enumerate(order.tolist()):
        changed[row, column] = inputs[other, column]
    return float(loss(changed, targets) - loss(inputs, targets))


def occlusion(f, x, baseline, window, stride):
    """Zeiler and Fergus (2014): each window at the baseline, the mean loss over windows that cover
    a pixel; one image."""
    total, times = torch.zeros_like(x), torch.zeros_like(x)
    height, width = x.shape[-2:]
    tops = sorted({min(t, height - window) for t in range(0, height, stride)})
    lefts = sorted({min(t, width - window) for t in range(0, width, stride)})
    for top in tops:
        for left in lefts:
            changed = x.clone()
            changed[..., top : top + window, left : left + window] = baseline
            lost = float(f(x[None])[0] - f(changed[None])[0])
            total[..., top : top + window, left : left + window] += lost
            times[..., top : top + window, left : left + window] += 1
    return total / times


def ks_statistic(a, b):
    """Largest distance of two empirical distribution functions, at every value of both."""
    return max(
        abs(float((a <= v).double().mean()) - float((b <= v).double().mean()))
        for v in torch.cat([a, b]).tolist()
    )
