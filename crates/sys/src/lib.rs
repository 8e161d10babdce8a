//! What only the kernel can tell or do, and the only `unsafe` of the product: peer credentials, process handles, files
//! beneath a directory, shared maps, sealed memory, and the durable swap of delivered files. One hint to the processor is here
//! too, because it is `unsafe`.
//!
//! Every function is small; those with an `unsafe` block carry its safety argument. Nothing here knows certificates,
//! names or policy. Linux only.

#![deny(unsafe_op_in_unsafe_fn)]

mod error;
#[cfg(test)]
mod privilege;

pub mod child;
pub mod dir;
pub mod lock;
pub mod map;
pub mod memfd;
pub mod peer;
pub mod prefetch;
pub mod process;
pub mod secret_file;
pub mod swap;
pub mod text_file;

pub use error::SysError;
