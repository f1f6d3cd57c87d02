"""How a device takes releases from a channel: trust, fetch, verify, test, switch, undo."""
