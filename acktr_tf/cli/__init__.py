"""Command line of all commands: flags, flag files, help, one-line errors."""
