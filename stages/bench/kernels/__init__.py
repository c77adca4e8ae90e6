"""Quantized layers on the integer kernels of an edge runtime, and what the machine could do."""
