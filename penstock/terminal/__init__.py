"""What commands share: output, options, exit codes."""
