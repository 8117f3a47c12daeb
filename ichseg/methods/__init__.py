"""Published systems to compare with, each in a room of its own; they share the machinery of the other rooms."""
