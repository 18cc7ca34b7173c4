"""What kind of difference two arrays have, found by algebra on the arrays alone."""
