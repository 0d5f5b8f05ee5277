//! What is known of an OpenID provider: its documents, its keys, and what its tokens claim.
//!
//! Who is let in by that is up to whoever uses it.

mod claims;
mod documents;
mod jwk;
mod key_source;

pub(crate) use claims::{Claims, ClaimsError, Rules};
pub(crate) use key_source::{KeyLookupError, KeySource, REFRESH_EVERY};
