//! The Redis server.
