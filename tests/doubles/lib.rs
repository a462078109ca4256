//! Doubles of the servers and of the disk: each a pure state machine that answers as the server would, and the narrow seam of the store room over
//! it. What a server decides freely is a choice that the caller makes; nothing here knows a clock or draws a number.

pub mod disk;
pub mod redis;
pub mod zookeeper;
