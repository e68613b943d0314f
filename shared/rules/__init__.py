"""The languages that connections and syncs share: conditions of `where`, and privacy rules. Pure."""
