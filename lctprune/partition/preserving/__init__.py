"""What tracing would lose: the contexts, modes and state of the user's model, and comparisons with it."""
