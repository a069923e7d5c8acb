"""What a config's programs cost on devices that are not here: memory, work, collectives, time."""
