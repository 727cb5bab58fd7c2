"""The whole engine through its public face, on both brokers."""
