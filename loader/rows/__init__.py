"""From events to rows as columns by source path. Pure."""
