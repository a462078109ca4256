//! The map between paths and keys: pure, one to one both ways.

mod map;

pub use map::{RouteMap, RouteSpec, Mapped};
