//! Who may import whom, and what may enter the build: the tables, and the checks that hold the workspace to them.
//!
//! Every check takes plain data and returns the broken edges in words, so that each can be shown to fail on a bad example.

pub mod deny;
pub mod house;
pub mod license;
pub mod rules;
pub mod table;
