"""Regions of images, series and texts, and pictures of rows."""
