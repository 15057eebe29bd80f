"""The ResNet space of Zen-NAS."""
