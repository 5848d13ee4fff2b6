"""Rankings, groups of rows and methods, compared; permutation importance."""
