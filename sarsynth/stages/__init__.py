"""What can be asked of a study, one verb a file: settings become a request, and the store an artifact."""
