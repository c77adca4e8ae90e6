"""Training the full-size network: the loop that every paper shares."""
