"""Helpers of the callbacks: findings and logging, step outputs, batch rows, training samples."""
