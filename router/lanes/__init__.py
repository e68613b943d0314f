"""What each connection gets of its site, in order, and what of that is stored."""
