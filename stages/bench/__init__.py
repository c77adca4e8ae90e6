"""Measurements of exported networks: size, arithmetic, latency and memory on an edge runtime."""
