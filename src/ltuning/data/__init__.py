"""Reading labelled texts: file formats, tables, examples and splits. Nothing here knows a model."""
