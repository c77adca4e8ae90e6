"""The three forecasting networks that Merlin is put on."""
