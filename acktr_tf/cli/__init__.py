"""What the commands share: flags, flag files, help, one-line errors."""
