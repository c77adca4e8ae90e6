"""Short clips with captions, and two video diffusion transformers trained on them."""
