"""A trained classifier on disk: the folder it is saved in, and the model card in that folder."""
