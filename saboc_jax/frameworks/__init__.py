"""Networks of other frameworks as candidates: one file a framework, each imported when it is used.

An adapter gives a `saboc_jax.Network`, whose variables have these collections:

- "params": what the framework trains, once where it is tied;
- "batch_stats": the running statistics of batch norms;
- "buffers": what else the network keeps.

The network runs in evaluation mode. Its second mode, `Network.train`, is evaluation mode with
the framework's own batch norms in training mode and without momentum: they record the statistics
of the batch as they are, and nothing random is switched on with them.
"""
