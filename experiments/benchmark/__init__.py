"""`python -m experiments.benchmark NAME`: a file for each benchmark, `*_cases` for what it measures
in processes of their own, and `report` for what all of them write down.
"""
