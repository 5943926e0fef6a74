"""What is, or may be, wrong with labelled texts, as records with counts, places and a sentence."""
