"""`python -m experiments.study`: `plan` says which runs a part needs, `pool` and `run` train them,
`report` and `tables` write down what they found.
"""
