"""Which checks run within a budget, and what their findings add up to."""
