//! Properties of what is pure, each a function of arbitrary bytes: written once, called by the fuzz targets (`fuzz/`) and by bounded
//! property tests (`bounded.rs`).

pub mod change_codec;
mod draw;
pub mod names;
pub mod notification;
pub mod pipeline_file;
pub mod planner;
