"""Exit codes: a contract with shells and CI servers."""

from __future__ import annotations

CLEAN, FINDINGS, BAD_INPUT, BROKEN, INTERRUPTED = 0, 1, 2, 3, 130
