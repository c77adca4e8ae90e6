"""SepPrune (arXiv 2505.12079): structured pruning for speech separation."""
