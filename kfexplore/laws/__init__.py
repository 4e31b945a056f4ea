"""Exact distributions of a block: of real models under the teacher, and toys in closed form."""
