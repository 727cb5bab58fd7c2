"""Cron and relay on brokers that fail when they are told to."""
