"""The runtime, part by part, on brokers that fail when they are told to."""
