"""Images of a set, decoded and prepared in order, and the room that they take."""
