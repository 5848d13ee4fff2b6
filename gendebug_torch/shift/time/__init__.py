"""Change over time: when it began, and monitoring."""
