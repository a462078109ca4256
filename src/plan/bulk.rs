//! How many deletes that nobody saw may go through without being asked about.

/// Deletes of one route that always go through; more wait for approval if they are more than half of the route.
const FREE: u64 = 100;

/// What becomes of the deletes of a route that a comparison, and the rounds to which it left pairs, inferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bulk {
    /// They go through: few, even if each pair that is still open were another one.
    Through,
    /// They wait for approval: many, whatever the pairs that are still open turn out to be.
    Held,
    /// That depends on the pairs that are still open.
    Open,
}

/// `inferred`: deletes inferred so far, ephemerals not counted; `open`: pairs that the comparison left to rounds and that are not
/// settled; `pairs`: all pairs of the route, both of these included. Nothing is carried out before the whole count is known, or
/// cannot make a difference any more.
#[must_use]
pub fn bulk(inferred: u64, open: u64, pairs: u64) -> Bulk {
    let is_many = |deletes: u64| deletes > FREE && deletes.saturating_mul(2) > pairs;
    match (is_many(inferred), is_many(inferred.saturating_add(open))) {
        (true, _) => Bulk::Held,
        (false, false) => Bulk::Through,
        (false, true) => Bulk::Open,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_a_hundred_and_more_than_half_are_held() {
        assert_eq!(bulk(100, 0, 100), Bulk::Through);
        assert_eq!(bulk(101, 0, 202), Bulk::Through);
        assert_eq!(bulk(101, 0, 201), Bulk::Held);
        assert_eq!(bulk(400, 0, 400), Bulk::Held);
    }

    #[test]
    fn pairs_that_are_still_open_count_as_deletes_before_anything_goes_through() {
        assert_eq!(bulk(1, 399, 400), Bulk::Open, "the answers were full: the rounds will tell");
        assert_eq!(bulk(136, 264, 400), Bulk::Open);
        assert_eq!(bulk(201, 199, 400), Bulk::Held, "the others make no difference");
        assert_eq!(bulk(60, 40, 100), Bulk::Through, "a busy pair keeps nothing waiting");
        assert_eq!(bulk(50, 1_000, 10_000), Bulk::Through);
    }

    #[test]
    fn what_was_let_through_stays_right_whatever_the_open_pairs_turn_out_to_be() {
        for pairs in [100, 150, 201, 202, 1_000] {
            for inferred in 0..=pairs.min(250) {
                for open in 0..=(pairs - inferred).min(250) {
                    if bulk(inferred, open, pairs) == Bulk::Through {
                        assert!((0..=open).all(|more| bulk(inferred + more, 0, pairs) == Bulk::Through));
                    }
                }
            }
        }
    }
}
