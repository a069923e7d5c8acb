"""Where arrays live: the mesh of devices, and the table from logical axes to mesh axes."""
