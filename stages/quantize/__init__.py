"""Quantization: grids, layers, transforms, reconstruction, packed integers."""
