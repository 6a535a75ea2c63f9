"""The embedded world: parametric ships of five classes, seen by a camera, from an aircraft and by a radar.

Every picture is a pure function of (seed, index, class name, domain). The ship itself depends on (seed, index, class
name) alone, so that the three domains show the same geometry.
"""

from sarsynth.sim.world import CLASSES, DOMAINS, Picture, generic_picture, render, scene

__all__ = ["CLASSES", "DOMAINS", "Picture", "generic_picture", "render", "scene"]
