//! `store::redis` on the double of its server.
