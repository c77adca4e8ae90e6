"""Merlin (arXiv 2506.12459): forecasting with unfixed missing rates by multi-view distillation."""
