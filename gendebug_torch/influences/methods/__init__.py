"""Ways to score training rows by their part in given answers."""
