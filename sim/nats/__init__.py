"""A NATS server with JetStream, simulated: what `nats-server` answers, without its process."""
