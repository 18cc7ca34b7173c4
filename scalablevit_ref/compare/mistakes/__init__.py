"""What a layer would be with a likely mistake in it, and which mistake explains what a candidate gave."""
