"""Training rows by influence: tables, what they share, a sheet for review."""
