"""The base model: found, loaded, unfused, quantized, and the weights of its linear layers."""
