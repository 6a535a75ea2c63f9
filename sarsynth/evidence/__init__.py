"""From numbers to statements: distances, copies, realism, significance, and the results that hold them."""
