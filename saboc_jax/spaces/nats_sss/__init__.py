"""The size space of NATS-Bench: channels of five stages, network and costs."""
