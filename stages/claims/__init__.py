"""Claims: what a paper says, how it is measured here, and whether it holds."""
