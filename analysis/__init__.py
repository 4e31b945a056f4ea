"""One script a study: computes, prints a table, writes its results, draws with kfexplore.figures."""
