"""Predictions for more files than one process can hold, on this machine or on a cluster."""
