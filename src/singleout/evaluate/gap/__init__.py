"""The modality gap of a query encoder: its figures (``measure``) and its picture (``picture``)."""
