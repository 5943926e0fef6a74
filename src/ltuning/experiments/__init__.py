"""Comparisons: methods x backbones x data sets x seeds, measured alike, with intervals."""
