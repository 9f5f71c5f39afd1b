"""`make mutants`: slips put into the code one by one, and whether a test notices each."""
