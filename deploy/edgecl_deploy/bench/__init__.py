"""`edgecl-device bench`: how fast this device is, stage by stage, and engines side by side."""
