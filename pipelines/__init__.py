"""What is reproduced: one folder a paper."""
