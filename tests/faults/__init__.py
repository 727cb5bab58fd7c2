"""Real processes on a real server, killed, frozen and restarted; then everything is counted."""
