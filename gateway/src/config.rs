//! Settings.

pub mod secret;
