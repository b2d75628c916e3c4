"""What quantization does to a language model's explanations, and to how well it can be explained."""

__version__ = "0.1.0"
