"""The subcommands, one file a group: options in, a call into `penstock/control/`, its answer printed."""
