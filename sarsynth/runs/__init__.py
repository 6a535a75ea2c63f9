"""The run layer: the only code that sees the settings of a study."""
