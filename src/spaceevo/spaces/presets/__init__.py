"""One file per hyperspace: a `spaceevo.spaces.hyperspace.Preset`."""
