//! The protocols, thin: each decodes its wire form, calls a verb, and encodes the answer. No rule of the store lives here.

pub mod gate;
pub mod http;
pub mod request_id;
pub mod s3;
