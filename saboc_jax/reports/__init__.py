"""Tables, figures and pages of what came out."""
