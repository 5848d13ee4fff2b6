"""The columns of two sides, aligned and prepared."""
