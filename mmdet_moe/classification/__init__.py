"""Classification: CIFAR-100 and others like it, with MMPretrain."""
