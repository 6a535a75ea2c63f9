"""From statements to pages: the rows of a sweep as HTML, CSV, LaTeX and on the terminal; plots and pictures."""
