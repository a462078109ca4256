//! The property `notification` of `tests/it/properties/` on whatever libFuzzer thinks of.
#![no_main]
#![expect(dead_code, reason = "each target runs one of the properties")]

#[path = "../../tests/it/properties/mod.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|data: &[u8]| properties::notification::check(data));
