"""The checks of learning curves and training records."""
