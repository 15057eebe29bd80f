"""Search methods as init/ask/tell over choices and scores."""
