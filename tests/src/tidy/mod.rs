//! House rules on the tree itself, as data in and complaints out, so that each rule can be shown to fail on a bad example.

pub mod code;
pub mod deploy;
pub mod docs;
pub mod source;
pub mod tree;
pub mod words;
