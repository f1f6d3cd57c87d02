"""The incremental loop: training, evaluation, run folders, metrics."""
