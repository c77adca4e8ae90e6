"""The three separation networks of SepPrune, and the parts they share."""
