"""The classifier whose labels are the point: its network and training, what joins its images, what it is scored by."""
