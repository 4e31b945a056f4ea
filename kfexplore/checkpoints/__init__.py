"""A file becomes a model: safe reading, config inference, named pairs, the hub, saving, tokenizers."""
