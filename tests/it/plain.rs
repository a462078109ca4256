//! A build without the feature `failpoints`, as a release is.

/// The names of variables and points would be in the program if any of their code were.
#[test]
fn a_build_without_the_feature_has_no_crash_point() {
    let program = std::fs::read(env!("CARGO_BIN_EXE_keepstep")).unwrap();
    let has = |text: &str| program.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(has("KEEPSTEP_DATA_DIR"), "a text that is in every build");
    for text in ["KEEPSTEP_FAILPOINTS", "KEEPSTEP_SWITCH_OFF", "c5-recorded", "crash point"] {
        assert!(!has(text), "{text} is in the program");
    }
}
