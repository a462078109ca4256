//! What is mirrored at all: bounds of values and names that hold before anything is asked of a store.

/// Values above this many bytes are not mirrored. ZooKeeper takes 1,048,575 bytes in one request, path and all.
pub const VALUE_BYTES_MAX: usize = 1_000_000;

/// Paths and keys above this many bytes are not asked for: the smallest limits of both servers leave some 48 kB for the rest of a request.
pub const NAME_BYTES_MAX: usize = 1_000_000;

/// The most that the bytes of a path times the number of its levels may be where a znode is created. Half of it is what the paths of its
/// ancestors have together, and so what the ensemble has to hold of one key: 4 MiB. ZooKeeper writes its snapshots by a function that
/// calls itself once for each level, and a tree of some thousands of levels ends the server; with this bound there are at most 2,048.
const PATH_WORK_MAX: usize = 8 << 20;

/// Whether a znode may be created at this path, with its ancestors.
///
/// # Errors
/// Why not: one sentence.
pub fn is_creatable(path: &str) -> Result<(), String> {
    let levels = path.bytes().filter(|byte| *byte == b'/').count();
    if path.len() > NAME_BYTES_MAX {
        return Err(format!("its path has {} bytes, and at most {NAME_BYTES_MAX} are mirrored", path.len()));
    }
    if path.len().saturating_mul(levels) > PATH_WORK_MAX {
        return Err(format!(
            "its path has {levels} levels and {} bytes; no znode is created where the product is above {PATH_WORK_MAX} \
             (2,000 levels of one letter, 340 of 64 letters)",
            path.len()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_creatable_by_its_levels_and_bytes_together() {
        let deep = |levels: usize, letters: usize| format!("/{}", "x".repeat(letters)).repeat(levels);
        for path in [deep(1, 999_999), deep(1200, 1), deep(2000, 1), deep(340, 64), deep(8, 120_000)] {
            assert_eq!(is_creatable(&path), Ok(()), "{} bytes", path.len());
        }
        for path in [deep(1, 1_000_000), deep(2100, 1), deep(30_000, 1), deep(400, 64)] {
            let why = is_creatable(&path).err().unwrap_or_default();
            assert!(why.contains("its path has") && why.len() < 300, "{why}");
        }
    }
}
