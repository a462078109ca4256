//! The ZooKeeper ensemble.
