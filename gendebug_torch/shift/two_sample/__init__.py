"""Two-sample tests and effect sizes."""
