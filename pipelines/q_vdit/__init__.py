"""Q-VDiT: quantization of video diffusion transformers (arXiv 2505.22167)."""
