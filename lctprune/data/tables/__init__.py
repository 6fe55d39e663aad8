"""Tables: their files, columns, numbers and splits."""
