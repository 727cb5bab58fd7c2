"""A job engine for Trio and AnyIO programs on Redis Streams."""
