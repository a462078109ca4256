//! The embedded stream.
