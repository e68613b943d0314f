"""Kit of event-wise destinations: meanings of answers, texts of calls, signatures. Pure."""
