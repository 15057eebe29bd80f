"""NAS-Bench-201: cells of four nodes and six edges."""
