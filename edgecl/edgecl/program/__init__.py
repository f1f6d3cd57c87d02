"""What is exported: the forward function, learned tensors, injectors, matchers, classifiers."""
