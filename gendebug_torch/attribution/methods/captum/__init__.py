"""Any method of captum.attr over a whole loader."""
