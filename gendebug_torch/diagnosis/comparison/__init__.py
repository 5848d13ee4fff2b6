"""What changed between two runs: two diagnoses, two models on the same rows, two profiles."""
