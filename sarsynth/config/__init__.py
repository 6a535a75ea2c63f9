"""What a composed configuration must look like, and what is said where it does not; imported before torch is."""
