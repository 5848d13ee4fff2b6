"""Running a suite: scores, verdicts, results, and the comparison of two runs."""
