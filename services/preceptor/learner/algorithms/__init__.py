"""Algorithms: an advantage estimator, a loss, and the models they need; one file each. See base.py for the interface.

Importing this package, or registry.py, imports no torch.
"""
