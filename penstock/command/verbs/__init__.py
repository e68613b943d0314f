"""The subcommands, one file a group: each reads options, calls `penstock/control/` and prints the answer."""
