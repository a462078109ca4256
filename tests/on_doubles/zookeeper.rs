//! `store::zookeeper` on the double of its server.
