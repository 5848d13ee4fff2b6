"""Numbers that are written with their unit, such as `3.5 kg`, `12 %` or `1,234 EUR`."""

from __future__ import annotations

import re
from collections.abc import Iterable

_MONEY = r"€|\$|£|¥|eur|usd|gbp|chf|jpy"
# Letters that seats and house numbers end with are no units.
_UNITS = (
    rf"%|‰|°\s?[cfk]?|{_MONEY}|[kmµu]?g|t|lbs?|oz|[kcmµun]?m|in|ft|mi|[mcd]?l|[mµun]?s|secs?"
    r"|mins?|hrs?|h|days?|[km]?w|[km]?wh|[kmgt]b|[kmg]?hz|[hk]?pa|m?bar|[mk]v|ma|km/h|m/s|mph"
    r"|m[²³23]"
)
_WRITTEN = re.compile(
    rf"(?P<before>{_MONEY})?\s?[-+]?\d[\d.,' ]*(?P<after>\s?({_UNITS}))?", re.IGNORECASE
)
# Share of the texts that have to be such numbers, and how many units they may have.
_MIN_SHARE, _MAX_UNITS = 0.95, 3


def written_units(texts: Iterable[str]) -> tuple[str, ...]:
    """Units of texts that are numbers with one, sorted; empty if some of the texts are not.

    Args:
        texts: the texts; 19 of 20 have to be a number with a common unit or a currency.

    Example:
        >>> written_units(["3.5 kg", "800 g", "1,2 kg"])
        ('g', 'kg')
        >>> written_units(["$ 1,200", "$ 80"]), written_units(["12a", "7b"])
        (('$',), ())
    """
    read = [_WRITTEN.fullmatch(text.strip()) for text in texts]
    # A unit stands before the number or after it.
    found = [
        (match["before"] or match["after"]).strip()
        for match in read
        if match and bool(match["before"]) != bool(match["after"])
    ]
    units = tuple(sorted(set(found)))
    return units if len(found) >= _MIN_SHARE * len(read) and len(units) <= _MAX_UNITS else ()
