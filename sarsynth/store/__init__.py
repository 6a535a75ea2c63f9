"""Artifacts: folders named by what they were made from, made once, with a card of their origin and cost."""
