"""Quality on both sides of a deployment: its change by task, and remedies tried on it."""
