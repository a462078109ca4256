//! The hallway.
pub mod control;
