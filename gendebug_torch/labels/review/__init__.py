"""Rows in the order of review, and the sheet on which a person reviews them."""
