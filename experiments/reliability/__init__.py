"""`python -m experiments.reliability`: `faults` and `processes` are what strikes a run, `runs`
starts the command train in processes of its own and compares what it leaves.
"""
