"""Tells the operator of trouble: what counts as trouble, how it is noticed, and how it is told."""
