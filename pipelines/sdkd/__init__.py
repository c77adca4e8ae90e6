"""SDKD (arXiv 2507.02939): a small forecaster learns frequency bands from a large one."""
