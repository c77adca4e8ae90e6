"""Looking at a trained network before it is compressed: what it costs, and where."""
