"""Kit of event-wise destinations: what answers mean, texts of calls, signatures. Pure."""
