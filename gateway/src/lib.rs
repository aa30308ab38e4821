//! placeholder
pub mod backend;
pub mod doctor;
