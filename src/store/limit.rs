//! What is mirrored at all: bounds of values and names that hold before anything is asked of a
//! store.

/// Values above this many bytes are not mirrored. ZooKeeper takes 1,048,575 bytes in one request,
/// path and all.
pub const VALUE_BYTES_MAX: usize = 1_000_000;

/// Paths and keys above this many bytes are not asked for: the smallest limits of both servers
/// leave some 48 kB for the rest of a request.
pub const NAME_BYTES_MAX: usize = 1_000_000;

/// The most that the levels of a path may cost where a znode is created, in bytes that are hashed.
/// For each znode that is created the server looks for a watch at its path and at each one above
/// it, and so does the client in each worker that gets the event (`PathParentIterator` of the
/// server, `dispatch_path_event` of zookeeper-client 0.11.2): together the cube of the levels, and
/// neither answers anybody else meanwhile.
///
/// A name below it takes at most a quarter of a second of the server, and of the client less than a
/// fifth of that. Measured with ZooKeeper 3.9.5 on Java 17, by its CPU time with one recursive
/// watch, on two cores of a cloud machine: 600 levels of one letter 0.2 s, 1,000 0.5 s, 1,900 2.7
/// s, 150 of 64 letters 0.1 s, 250 of them 0.3 s; that is 1.2 ns for each byte. The walk of the
/// client alone: 1,900 levels 0.4 s.
///
/// It also keeps the tree far from the thousands of levels that end a server for good: snapshots
/// are written by recursion.
const LEVELS_COST_MAX: usize = 100_000_000;

/// What a look at one path costs besides its bytes.
const LOOK_COST: usize = 32;

/// What a byte of a znode's path costs besides the looks: it is sent, logged, stored and part of
/// events. From the same measurement.
const WRITE_COST: usize = 40;

/// Whether a znode may be created at this path, with its ancestors. Those that exist count as well:
/// the answer is that of the name.
///
/// # Errors
/// Why not: one sentence.
pub fn is_creatable(path: &str) -> Result<(), String> {
    if path.len() > NAME_BYTES_MAX {
        return Err(format!("its path has {} bytes, and at most {NAME_BYTES_MAX} are mirrored", path.len()));
    }
    if levels_cost(path) > LEVELS_COST_MAX {
        let levels = path.bytes().filter(|byte| *byte == b'/').count();
        return Err(format!(
            "its path has {levels} levels and {} bytes; to create a znode for each level would hold up the ensemble \
             (600 levels of one letter fit, 170 of 64 letters)",
            path.len()
        ));
    }
    Ok(())
}

/// See [`LEVELS_COST_MAX`].
fn levels_cost(path: &str) -> usize {
    let mut cost: usize = 0;
    // Of the paths that are looked at for one level.
    let mut looks: usize = 0;
    let ends = path.bytes().enumerate().skip(1).filter(|(_, byte)| *byte == b'/').map(|(end, _)| end);
    for end in ends.chain([path.len()]) {
        looks = looks.saturating_add(end + LOOK_COST);
        cost = cost.saturating_add(looks).saturating_add(end * WRITE_COST);
    }
    cost
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_creatable_by_what_all_its_levels_cost() {
        let deep = |levels: usize, letters: usize| format!("/{}", "x".repeat(letters)).repeat(levels);
        for path in [deep(1, 999_999), deep(600, 1), deep(170, 64), deep(5, 120_000), deep(2, 400_000)] {
            assert_eq!(is_creatable(&path), Ok(()), "{} bytes", path.len());
        }
        // However the bytes are spread over the levels.
        let uneven = format!("/{}{}", "x".repeat(300_000), deep(30, 1));
        for path in [deep(1, 1_000_000), deep(700, 1), deep(1200, 1), deep(30_000, 1), deep(250, 64), uneven] {
            let why = is_creatable(&path).err().unwrap_or_default();
            assert!(why.contains("its path has") && why.len() < 300, "{why}");
        }
    }
}
