//! The ACLs that Keepstep gives: to everybody, to everybody for reading, to the user that creates;
//! and what they are worth when read.

use super::session::{Acl, Permission};

/// Everybody, everything.
pub(super) static OPEN: [Acl; 1] = [Acl::new_const(Permission::ALL, "world", "anyone")];

/// Everybody reads.
pub(super) static READABLE: [Acl; 1] = [Acl::new_const(Permission::READ, "world", "anyone")];

/// The authenticated user that creates it, everything. Without a login the server refuses it.
pub(super) static CREATOR: [Acl; 1] = [Acl::new_const(Permission::ALL, "auth", "")];

/// Whether an ACL was shown with its digests masked (`user:x`), as it is without ADMIN
/// (ZOOKEEPER-1392): copied as it is shown, it would lock everybody out.
pub(super) fn is_masked(acls: &[Acl]) -> bool {
    acls.iter().any(|acl| acl.scheme() == "digest" && acl.id().ends_with(":x"))
}
