"""Images and where they come from: records, readers, transforms, data modules."""
