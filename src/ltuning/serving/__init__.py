"""Classifiers of several run folders behind HTTP, those of one backbone in shared passes."""
