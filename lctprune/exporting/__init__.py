"""Which file can a network become? Convert it, compare the file with the original, write it."""
