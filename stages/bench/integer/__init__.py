"""Quantized networks for real: bits they take, time on integer kernels, what they compute there."""
