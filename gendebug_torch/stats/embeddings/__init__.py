"""Embeddings of any width in few dimensions."""
