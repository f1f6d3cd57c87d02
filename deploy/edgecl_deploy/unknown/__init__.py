"""Whether an image is of a class at all: p-values of every class, by numpy alone (ADR 0053).

Learner and device share this one definition.
"""
