"""The replicated log: one small interface, JetStream behind it, and one in memory."""
