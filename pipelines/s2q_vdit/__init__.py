"""S²Q-VDiT: calibration samples chosen by salience, tokens weighted by the attention they get."""
