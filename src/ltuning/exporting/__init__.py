"""Exporting: a trained classifier as a graph of ONNX, for `ltuning.onnx` and other runtimes."""
