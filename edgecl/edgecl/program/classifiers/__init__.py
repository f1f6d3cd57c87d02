"""Classifiers: from the features of one image to one score per row."""
