"""One script per study: computes, prints tables and writes results; NAME_figures has the figures of that study."""
