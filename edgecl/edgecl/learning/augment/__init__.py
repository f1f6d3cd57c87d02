"""Augmented views of training images: of the whole picture, drawn from numbers of their own.

`augmentation`: what is drawn, as data, and the sets of public code by name. `draws`: the crop, the
flip and the colours of one view. `rendering`: pixels of views, in one operation on the device.
`views`: the pictures of a task, and what an epoch sees of them.
"""
