//! What the command line needs to talk to a gateway.

pub mod sign;
