"""Readers: from an archive as it was downloaded to records and images, one data set a file. Torch-free."""
