"""One script per study: computes, prints tables, writes its results; NAME_figures holds what only it draws."""
