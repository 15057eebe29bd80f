"""The paper's figures and tables, one binary each; the paper's numbers stand beside ours."""
