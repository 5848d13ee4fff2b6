"""Shift of what a network makes of its inputs."""
