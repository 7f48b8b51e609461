"""What it costs, measured: targets, sessions, a store that forgets nothing, campaigns and the study."""
