"""The bill: how many points of the quality each cause carries, and what remedies win back."""
