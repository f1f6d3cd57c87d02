"""Whether what a device sees is still what its release learned.

`detector`: the rule of the alarm. `measures`: what is looked at. `state`: what is remembered, and
its document. `watch`: counts images as they are answered. `verdict`: what it means. `keeping`: the
file. Imported when the first of them is used.
"""
