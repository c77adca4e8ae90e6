"""SDKD (arXiv 2507.02939): spectral decoupled knowledge distillation for spatiotemporal forecasting."""
