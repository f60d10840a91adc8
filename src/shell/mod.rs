//! What touches the world: thin, sequential, no decisions. Modules do not know each other.
