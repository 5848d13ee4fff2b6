"""Data sets of any size as one value that adds: profiles, and the engines that make them."""
