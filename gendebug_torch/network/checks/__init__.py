"""Checks of the topic `network`, one file each."""
