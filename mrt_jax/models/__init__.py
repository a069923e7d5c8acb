"""The policy's network: one decoder-only transformer, its caches, and the families it covers."""
