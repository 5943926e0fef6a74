"""Tuning methods: what the virtual tokens are, where they go, and how the result is read."""
