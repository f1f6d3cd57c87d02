"""int8 weights for a bundle (docs/adr/0037): calibration, rounding, rewriting of graphs."""
