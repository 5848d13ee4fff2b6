"""Rankings and groups of attributions compared; permutation importance."""
