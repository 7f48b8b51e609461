"""What can exist: blocks, subnets, search spaces and hyperspaces as frozen values, without torch."""
