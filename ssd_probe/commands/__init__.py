"""What each command does, names in and files out: one file a command."""
