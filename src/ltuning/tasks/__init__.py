"""Tasks: what is predicted, as data, verbs and comparisons have it; one class for each."""
