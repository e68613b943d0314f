"""The subcommands, one file a group: options in, a call of a function beside this folder, its answer printed."""
