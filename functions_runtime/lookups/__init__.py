"""The tables of lookups: read from files and databases, kept in memory, read again from time to time."""
