"""A file becomes a model: safe reading, telling what it is, named pairs, saving, tokenizers."""
