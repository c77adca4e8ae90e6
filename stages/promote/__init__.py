"""Whether a network that was made anew takes the place of the one in use."""
