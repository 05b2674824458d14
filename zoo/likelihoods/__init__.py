"""Likelihood plugins, one file each."""
