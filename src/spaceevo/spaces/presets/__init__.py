"""One file per hyperspace; each defines `HYPERSPACE`."""
