"""Influence by the curvature of the loss: Kronecker factors with corrected eigenvalues."""
