"""Classes that are enrolled on the device, from a few pictures and without training.

`records` and `local`: the folder that holds them. `means` and `overlay`: what they add to a
release. `enrolling`: how a class is taken in, and `deciding`: what is decided about it later.
Imported when the first of them is used.
"""
