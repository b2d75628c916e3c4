"""What quantization does to a language model's explanations, and to how well it can be explained."""
