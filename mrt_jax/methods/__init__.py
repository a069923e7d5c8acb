"""The methods, each a short composition of kernels."""
