"""Near duplicates among texts, by MinHash and the exact Jaccard similarity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from gendebug_torch.errors import reject
from gendebug_torch.leakage.splits.coincidences import tested, text_coincidences
from gendebug_torch.leakage.splits.near_duplicates import TEXTS, NearDuplicates
from gendebug_torch.leakage.splits.row_hashes import first_matches, splitmix64

# 16 bands of 4 hashes: two texts of similarity 0.8 share a band with chance 0.9998, of similarity
# 0.3 with chance 0.12.
_BANDS, _BAND_HASHES = 16, 4
_HASHES = _BANDS * _BAND_HASHES
_SHINGLE = 5
# Four standard errors of a similarity that is estimated from 64 hashes, 0.0625 each at most.
_MARGIN = 0.25
_SEED = 0x1F123BB5159A55


def near_duplicate_texts(
    train: Sequence[str],
    validation: Sequence[str],
    *,
    threshold: float = 0.8,
    device: str | torch.device = "cpu",
) -> NearDuplicates:
    """Validation texts whose character shingles are nearly those of a training text.

    Texts are converted to lower case and their blanks joined; the similarity is the Jaccard index
    of the sets of five successive bytes. MinHash finds the candidates, the exact index of the best
    candidate decides. Near duplicates whose common words are so frequent that independent texts
    share them give the expected share. Identical texts are left to `identical_rows`.

    Source: Broder (1997), SEQUENCES, for MinHash; Leskovec, Rajaraman and Ullman (2014), Mining of
    Massive Datasets, section 3.4, for the bands.

    Args:
        train: n texts.
        validation: m texts.
        threshold: Jaccard similarity in [0.5, 1] from which a text is a near duplicate.
        device: device on which the hashes are computed.

    Raises:
        InputError: a threshold for which the bands would miss texts.

    Cost: 64 hashes per byte.

    Example:
        >>> train = ["the parcel arrived two days late, damaged", "where is my invoice"]
        >>> found = near_duplicate_texts(train, ["The parcel arrived two days late, damaged!"])
        >>> found.rows.tolist(), found.partners.tolist(), round(float(found.values[0]), 2)
        ([0], [0], 0.97)
    """
    if not 0.5 <= threshold <= 1:
        reject("threshold", "a similarity from 0.5 to 1", str(threshold), "Use 0.8.")
    splits = [[" ".join(text.lower().split()) for text in texts] for texts in (train, validation)]
    signatures = [_signatures(split, torch.device(device)) for split in splits]
    best = torch.full((len(validation),), -1, dtype=torch.int64, device=device)
    similarity = torch.zeros(len(validation), dtype=torch.float64, device=device)
    factors = torch.arange(1, 2 * _BAND_HASHES, 2, device=device)
    for start in range(0, _HASHES if len(train) else 0, _BAND_HASHES):
        band = slice(start, start + _BAND_HASHES)
        keys = [splitmix64(signature[:, band] * factors).sum(1) for signature in signatures]
        match = first_matches(keys[0], keys[1])
        estimate = (signatures[0][match.clamp(min=0)] == signatures[1]).double().mean(1)
        better = (match >= 0) & (estimate > similarity)
        best = torch.where(better, match, best)
        similarity = torch.where(better, estimate, similarity)
    found = _exact(splits, best.cpu(), similarity.cpu(), threshold)
    return replace(found, expected=found.share * _chance(splits, signatures, found))


def _chance(
    splits: Sequence[Sequence[str]], signatures: Sequence[Tensor], found: NearDuplicates
) -> float:
    """Share of near duplicates among texts that independent texts bring by chance."""
    chosen = tested(len(found.rows))
    pairs, similar = [], []
    for row, partner in zip(found.rows[chosen].tolist(), found.partners[chosen], strict=True):
        estimate = (signatures[0] == signatures[1][row]).double().mean(1)
        similar.append((estimate >= found.threshold - _MARGIN / 2).nonzero()[:, 0].tolist())
        pairs.append((splits[1][row], splits[0][int(partner)]))
    return text_coincidences(splits[0], pairs, similar) if pairs else 0.0


def _exact(
    splits: Sequence[Sequence[str]], best: Tensor, similarity: Tensor, threshold: float
) -> NearDuplicates:
    """The exact Jaccard index of every candidate pair that the estimate does not rule out."""
    exact, rows = similarity.clone(), []
    for row in (similarity > threshold - _MARGIN).nonzero()[:, 0].tolist():
        first, second = splits[0][int(best[row])], splits[1][row]
        exact[row] = 1.0 if first == second else _jaccard(first, second)
        if first != second and exact[row] >= threshold:
            rows.append(row)
    near = torch.tensor(rows, dtype=torch.int64)
    return NearDuplicates(TEXTS, threshold, exact, near, best[near])


def _jaccard(first: str, second: str) -> float:
    a, b = (
        {text[i : i + _SHINGLE] for i in range(max(len(text) - _SHINGLE + 1, 1))}
        for text in (first.encode(), second.encode())
    )
    return len(a & b) / len(a | b)


def _signatures(texts: Sequence[str], device: torch.device) -> Tensor:
    """`[n, 64]` int64: the smallest hash of any shingle of a text, for each of 64 functions."""
    encoded = [text.encode().ljust(_SHINGLE, b"\0") for text in texts]
    lengths = torch.tensor([len(text) - _SHINGLE + 1 for text in encoded], dtype=torch.int64)
    data = np.frombuffer(b"".join(encoded), dtype=np.uint8).astype(np.int64)
    flat = torch.from_numpy(data)
    owner = torch.arange(len(texts)).repeat_interleave(lengths)
    start = torch.arange(len(owner)) + owner * (_SHINGLE - 1)
    shingles = torch.zeros(len(owner), dtype=torch.int64)
    for offset in range(_SHINGLE):
        shingles += flat[start + offset] << (8 * offset)
    shingles, owner = shingles.to(device), owner.to(device)
    signatures = torch.empty(len(texts), _HASHES, dtype=torch.int64, device=device)
    for function in range(_HASHES):
        hashed = splitmix64(shingles * (2 * function + 1) + (function + 1) * _SEED)
        largest = torch.full((len(texts),), torch.iinfo(torch.int64).max, device=device)
        signatures[:, function] = largest.scatter_reduce_(0, owner, hashed, "amin")
    return signatures
