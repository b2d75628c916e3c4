"""One file per quantization method; each turns the same weights into a loadable variant."""
