//! The map between paths and keys: pure, one to one both ways.
//!
//! ```text
//! /settings/db/host ──cut at "/"──> names ──match, carry the wildcards──> names ──join──> settings:db:host
//!      znode          decode each                                      swap "/" and ":"          key
//! ```
//!
//! Both a path and a key are a *list of names*: byte strings without `/`. Three small maps make a pair of the two, and
//! because each is one to one, so is the whole:
//!
//! 1. `separator`: a key is read as such a list by letting `/` and the separator change places everywhere and cutting
//!    at `/`. It is an involution on all byte strings, whatever the separator.
//! 2. `name`: any byte string without `/` becomes a legal znode name, and every legal znode name comes from exactly
//!    one. Nearly all stay as they are; what no znode can be called is percent-encoded, and what reads as such, once
//!    more.
//! 3. `pattern`: literals stand for themselves, wildcards carry their names over in order.
//!
//! [`RouteMap`] then asks the routes in order and believes a pair only if both of its names lead to the same route: two
//! routes that overlap on one side can never write one znode or one key for two.

mod error;
pub mod glob;
mod map;
mod name;
mod overlap;
mod pattern;
mod separator;

pub use error::PatternError;
pub use map::{Mapped, RouteMap, RouteSpec};
pub use overlap::doubts;
pub use pattern::{Pattern, same_wildcards};
pub use separator::check_separator;

#[cfg(test)]
mod tests;
