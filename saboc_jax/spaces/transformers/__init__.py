"""Vision transformers: the spaces of AutoFormer and of PiT, as Auto-Prox trained them."""
